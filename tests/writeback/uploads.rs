//! Uploads in parts, and those that nobody ends.

use bytes::Bytes;
use xosfs::demo::{Action, Rule};
use xosfs::fs::file::WriteMode;

use super::common;
use super::common::noise::noise;
use super::killable::{BUCKET, PATIENCE, world};

// R88
#[test]
fn uploads_that_a_dead_process_left_are_aborted() {
    let w = world();
    for (mode, round) in [("writeback", 0), ("log_level=info", 1)] {
        let options = format!("{mode},stream_after=5M,part_size=5M");
        let d = w.start_with(&w.snapshot(), &options);
        let fh = d.open(&format!("streamed{round}"), libc::O_WRONLY).unwrap();
        for n in 0..40 {
            d.put(fh, n << 20, &vec![n as u8; 1 << 20]);
        }
        common::eventually(PATIENCE, "an upload", || w.server.store().uploads(BUCKET).len() == 1);
        d.kill();
        let d = w.start_with(&w.snapshot(), &options);
        common::eventually(PATIENCE, "no upload", || w.server.store().uploads(BUCKET).is_empty());
        assert_eq!(w.server.store().list(BUCKET, ""), Vec::<String>::new());
        d.kill();
    }
}

#[test]
fn an_upload_whose_id_never_arrived_is_found() {
    let w = world();
    let d = w.start_with(&w.state(), "stream_after=5M,part_size=5M");
    w.server.knobs().fail(Rule::new("CreateMultipartUpload", Action::CutBeforeAnswer).always());
    let fh = d.open("f", libc::O_WRONLY).unwrap();
    for n in 0..20u64 {
        let bytes = Bytes::from(vec![1; 1 << 20]);
        let _ = d.block(d.fs.write(fh, n << 20, bytes, WriteMode::default()));
    }
    common::eventually(PATIENCE, "an upload", || !w.server.store().uploads(BUCKET).is_empty());
    d.kill();
    w.store_again();
    let _d = w.start_with(&w.snapshot(), "log_level=info");
    common::eventually(PATIENCE, "no upload", || w.server.store().uploads(BUCKET).is_empty());
}

#[test]
fn a_streamed_file_is_stored_by_its_close() {
    let w = world();
    let d = w.start_with(&w.state(), "writeback,stream_after=5M,part_size=5M");
    let bytes = noise(4, 30 << 20);
    d.write("f", &bytes);
    assert!(w.get("f").unwrap() == bytes);
    d.settles();
    assert_eq!(w.server.store().uploads(BUCKET), vec![]);
}
