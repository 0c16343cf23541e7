"""The work that is measured. Each function runs in a process of its own, so that one that hangs in a dead mount can be
left behind; it gets its parameters as a dict and returns figures, and checks what it read."""
import os
import subprocess
import time

from s3 import MIB, Client, parallel

SMALL = bytes(range(256)) * 32
THREADS = 8
PART = 8 * MIB


def block(index):
    """The bytes of MiB number `index` of the large file: not compressible to nothing, different everywhere."""
    return index.to_bytes(8, "little") * (MIB // 8)


def check(data, index):
    if data[:8] != index.to_bytes(8, "little") or data[-8:] != data[:8]:
        raise OSError(f"wrong bytes in MiB {index}")


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def until(stored):
    """Waits for the store, whatever close() promised: the same end for everybody."""
    while not stored():
        time.sleep(0.02)


def write(p):
    blocks = [block(i) for i in range(p["mib"])]
    begun = time.monotonic()
    fd = os.open(p["path"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for data in blocks:
        at = 0
        while at < len(data):
            at += os.write(fd, memoryview(data)[at:])
    if p.get("sync"):
        os.fsync(fd)
    os.close(fd)
    closed = time.monotonic() - begun
    if "client" in p:
        client = Client(**p["client"])
        until(lambda: client.size(p["key"]) == p["mib"] * MIB)
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def read(p):
    buffer = bytearray(MIB)
    begun = time.monotonic()
    fd = os.open(p["path"], os.O_RDONLY)
    for i in range(p["mib"]):
        at = 0
        while at < MIB:
            n = os.readv(fd, [memoryview(buffer)[at:]])
            if n == 0:
                raise OSError(f"the file ends in MiB {i}")
            at += n
        check(buffer, i)
    os.close(fd)
    seconds = time.monotonic() - begun
    return {"value": p["mib"] * MIB / 1e6 / seconds, "seconds": seconds}


def random_read(p):
    """4 KiB at a time, one after the other, at places that are the same for everybody."""
    import random
    places, took = random.Random(p["seed"]), []
    begun = time.monotonic()
    fd = os.open(p["path"], os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    while len(took) < p["reads"] and time.monotonic() - begun < p["limit"]:
        at = places.randrange(p["mib"] * 256) * 4096
        t = time.monotonic()
        data = os.pread(fd, 4096, at)
        took.append(time.monotonic() - t)
        if len(data) != 4096 or data[:8] != (at // MIB).to_bytes(8, "little"):
            raise OSError(f"wrong bytes at {at}")
    os.close(fd)
    return {"value": len(took) / sum(took), "seconds": sum(took), "reads": len(took),
            "p50_ms": percentile(took, 0.5) * 1e3, "p99_ms": percentile(took, 0.99) * 1e3}


def create(p):
    def one(i):
        with open(f"{p['path']}/f{i:05}", "wb", buffering=0) as f:
            f.write(SMALL)

    begun = time.monotonic()
    os.makedirs(p["path"])
    parallel(range(p["count"]), p["writers"], one)
    closed = time.monotonic() - begun
    until_tree(p, p["count"], p["count"] * len(SMALL))
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def until_tree(p, count, size):
    """Waits until so many objects with so many bytes are below the key."""
    if "client" not in p:
        return
    client = Client(**p["client"])

    def stored():
        # s3fs makes empty objects first, and objects for directories.
        sizes = [n for key, n in client.list(p["key"]).items() if not key.endswith("/")]
        return len(sizes) >= count and sum(sizes) >= size

    until(stored)


def untar(p):
    begun = time.monotonic()
    os.makedirs(p["path"])
    subprocess.run(["tar", "-xf", p["tar"], "-C", p["path"]], check=True)
    closed = time.monotonic() - begun
    until_tree(p, p["count"], p["bytes"])
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def append(p):
    return change(dict(p, at=p["mib"] * MIB, data=os.urandom(MIB)))


def change(p):
    """Writes into an object that is there, in its middle unless told otherwise."""
    at, data = p.get("at", p["mib"] // 2 * MIB), p.get("data") or os.urandom(4096)
    client = Client(**p["client"])
    begun = time.monotonic()
    fd = os.open(p["path"], os.O_WRONLY)
    if os.pwrite(fd, data, at) != len(data):
        raise OSError("a short write")
    os.close(fd)
    closed = time.monotonic() - begun
    until(lambda: client.size(p["key"]) >= at + len(data) and client.get(p["key"], at, at + len(data)) == data)
    seconds = time.monotonic() - begun
    # What was there before is still there.
    check(client.get(p["key"], 0, MIB), 0)
    check(client.get(p["key"], (p["mib"] - 1) * MIB, p["mib"] * MIB), p["mib"] - 1)
    return {"seconds": seconds, "close_s": closed}


def read_small(p):
    begun = time.monotonic()
    for i in range(p["count"]):
        with open(f"{p['path']}/f{i:05}", "rb", buffering=0) as f:
            if f.read(len(SMALL) + 1) != SMALL:
                raise OSError(f"wrong bytes in file {i}")
    seconds = time.monotonic() - begun
    return {"value": p["count"] / seconds, "seconds": seconds}


def listing(p):
    begun = time.monotonic()
    done = subprocess.run(["ls", "-l", p["path"]], capture_output=True, check=True)
    seconds = time.monotonic() - begun
    files = sum(line.startswith(b"-") for line in done.stdout.splitlines())
    if files != p["count"]:
        raise OSError(f"{files} files listed, not {p['count']}")
    return {"value": seconds, "seconds": seconds}


# The same things without a file system: parallel requests of a plain client.

def client_write(p):
    client, blocks = Client(**p["client"]), [block(i) for i in range(p["mib"])]
    per = PART // MIB
    begun = time.monotonic()
    client.upload(p["key"], -(-p["mib"] // per), lambda n: b"".join(blocks[(n - 1) * per:n * per]), THREADS)
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "close_s": seconds}


def client_read(p):
    client = Client(**p["client"])
    import threading
    local = threading.local()

    def part(at):
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(PART)
        end = min(at + PART, p["mib"] * MIB)
        data = client.get(p["key"], at, end, into=memoryview(local.buffer)[:end - at])
        for i in range(len(data) // MIB):
            check(data[i * MIB:(i + 1) * MIB], at // MIB + i)

    begun = time.monotonic()
    parallel(range(0, p["mib"] * MIB, PART), THREADS, part)
    seconds = time.monotonic() - begun
    return {"value": p["mib"] * MIB / 1e6 / seconds, "seconds": seconds}


def client_random_read(p):
    import random
    client, places, took = Client(**p["client"]), random.Random(p["seed"]), []
    while len(took) < p["reads"] and sum(took) < p["limit"]:
        at = places.randrange(p["mib"] * 256) * 4096
        t = time.monotonic()
        client.get(p["key"], at, at + 4096)
        took.append(time.monotonic() - t)
    return {"value": len(took) / sum(took), "seconds": sum(took), "reads": len(took),
            "p50_ms": percentile(took, 0.5) * 1e3, "p99_ms": percentile(took, 0.99) * 1e3}


def client_create(p):
    client = Client(**p["client"])
    begun = time.monotonic()
    parallel(range(p["count"]), p["writers"], lambda i: client.put(f"{p['key']}/f{i:05}", SMALL))
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "close_s": seconds}


def client_read_small(p):
    client = Client(**p["client"])
    begun = time.monotonic()
    for i in range(p["count"]):
        if client.send("GET", f"{p['key']}/f{i:05}")[1] != SMALL:
            raise OSError(f"wrong bytes in object {i}")
    seconds = time.monotonic() - begun
    return {"value": p["count"] / seconds, "seconds": seconds}


def client_listing(p):
    begun = time.monotonic()
    keys = [k for k in Client(**p["client"]).list(p["key"]) if not k.endswith("/")]
    seconds = time.monotonic() - begun
    if len(keys) != p["count"]:
        raise OSError(f"{len(keys)} keys listed, not {p['count']}")
    return {"value": seconds, "seconds": seconds}


WORK = {f.__name__: f for f in (
    write, read, random_read, create, untar, append, change, read_small, listing, client_write, client_read,
    client_random_read, client_create, client_read_small, client_listing)}
