//! Programs that write a file from its start and come back for its header, or move what they wrote.

use crate::common::{TestMount, TestServer, sh, temp_dir};
use crate::same_as_local;

/// The header of a sound file has its length, which is known at the end.
// R15 R23
#[test]
fn a_sound_recorder_writes_its_header_at_the_end() {
    same_as_local(
        "python3 - <<'PY'
import math, struct, wave
for name, seconds in (('short.wav', 1), ('long.wav', 40)):
    with wave.open(name, 'wb') as w:
        w.setnchannels(2)
        w.setsampwidth(2)
        w.setframerate(48000)
        for second in range(seconds):
            # Each piece patches the length in the header.
            w.writeframes(b''.join(struct.pack('<hh', (i * 7) % 30000, second) for i in range(48000)))
with wave.open('long.wav') as w:
    assert w.getnframes() == 40 * 48000
PY
         sha256sum *.wav",
    );
}

/// What a muxer does for a film that can play before it is all there: the index is written behind the data, then the
/// file is opened again for reading, and all of the data is moved up to make room for the index at the front.
// R5 R15 R17
#[test]
fn a_muxer_moves_the_index_to_the_front() {
    same_as_local(
        "python3 - <<'PY'
import os, random
rnd = random.Random(7)
for name, size in (('small.mp4', 3_000_000), ('large.mp4', 70_000_000)):
    index = rnd.randbytes(200_000)
    block = rnd.randbytes(1 << 20)
    out = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(out, b'ftypisom' + bytes(24) + b'mdat????')
    written = 40
    while written < size:
        written += os.write(out, block[:min(len(block), size - written)])
    # The length of the data, then the index behind it.
    os.pwrite(out, written.to_bytes(8, 'big'), 32)
    os.lseek(out, 0, os.SEEK_END)
    os.write(out, index)
    # A second descriptor reads ahead of what the first one overwrites.
    back = os.open(name, os.O_RDONLY)
    os.lseek(back, 32, os.SEEK_SET)
    os.lseek(out, 32, os.SEEK_SET)
    pending = [index, os.read(back, len(index))]
    left = written - 32
    while left > 0:
        os.write(out, pending.pop(0))
        if len(pending) < 2:
            pending.append(os.read(back, len(index)))
        left -= len(pending[0])
    for piece in pending:
        os.write(out, piece)
    os.close(back)
    os.ftruncate(out, written + len(index))
    os.close(out)
PY
         sha256sum *.mp4",
    );
}

/// The same by the real program, where there is one: it is too much to install for one test.
#[test]
fn a_film_is_made_on_the_mount() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    // Without ffmpeg the pictures are moved by hand, so that the mount has been written and read in any case.
    let make = "if command -v ffmpeg >/dev/null; then
           ffmpeg -v error -y -f lavfi -i testsrc=size=640x360:rate=25 -t 8 -c:v mpeg4 -b:v 4M -threads 1 \\
             -fflags +bitexact -flags:v +bitexact -movflags +faststart film.mp4
           ffmpeg -v error -i film.mp4 -f null -
           # The index is at the front.
           head -c 4096 film.mp4 | grep -q moov
         else
           head -c 4000000 /dev/zero | tr '\\0' f >film.mp4; (head -c 100 film.mp4; cat film.mp4) >moved; mv moved film.mp4
         fi; sha256sum film.mp4";
    let printed = mount.sh(make);
    assert_eq!(printed, sh(local.path(), make));
    assert_eq!(printed.split(' ').next(), Some(&*server.sha256("film.mp4")));
    mount.umount();
}
