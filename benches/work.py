"""The work that is measured. Each function runs in a process of its own, so that one that hangs in a dead mount can be
left behind; it gets its parameters as a dict and returns figures, and checks what it read."""
import os
import random
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


def until(stored):
    """Waits for the store, whatever close() promised: the same end for everybody."""
    while not stored():
        time.sleep(0.02)


def forked(count, work):
    """`work(number)` in so many processes at once: threads of this interpreter would wait for each other. Each returns
    a number; the sum of them."""
    pipes = []
    for n in range(count):
        r, w = os.pipe()
        if os.fork() == 0:
            code = 1
            try:
                os.close(r)
                os.write(w, str(work(n)).encode())
                code = 0
            except Exception as e:  # noqa: BLE001 - the parent says that it failed
                os.write(w, f"failed: {e}".encode())
            finally:
                os._exit(code)
        os.close(w)
        pipes.append(r)
    total = 0
    for r in pipes:
        text = b""
        while data := os.read(r, 4096):
            text += data
        os.close(r)
        os.wait()
        if text.startswith(b"failed") or not text:
            raise OSError(text.decode() or "a process died")
        total += float(text)
    return total


def rate(amount, begun):
    seconds = time.monotonic() - begun
    return {"value": amount / seconds, "seconds": seconds}


# Large files.

def read(p):
    """The large file from its begin to its end, by `streams` readers of a part each."""
    per = -(-p["mib"] // p["streams"])

    def one(n):
        buffer = bytearray(MIB)
        fd = os.open(p["path"], os.O_RDONLY)
        os.lseek(fd, n * per * MIB, os.SEEK_SET)
        for i in range(n * per, min((n + 1) * per, p["mib"])):
            at = 0
            while at < MIB:
                got = os.readv(fd, [memoryview(buffer)[at:]])
                if got == 0:
                    raise OSError(f"the file ends in MiB {i}")
                at += got
            check(buffer, i)
        os.close(fd)
        return 0

    begun = time.monotonic()
    if p["streams"] == 1:
        one(0)
    else:
        forked(p["streams"], one)
    return rate(p["mib"] * MIB / 1e6, begun)


def random_read(p):
    """`size` bytes at a time at places that are the same for everybody, `depth` reads under way; reads a second."""
    size = p["size"]

    def one(n):
        places = random.Random(p["seed"] + n)
        fd = os.open(p["path"], os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        done, begun = 0, time.monotonic()
        while done < p["reads"] // p["depth"] and time.monotonic() - begun < p["limit"]:
            at = places.randrange(p["mib"] * MIB // size) * size
            data = os.pread(fd, size, at)
            if len(data) != size or data[:8] != (at // MIB).to_bytes(8, "little"):
                raise OSError(f"wrong bytes at {at}")
            done += 1
        os.close(fd)
        return done

    begun = time.monotonic()
    return rate(one(0) if p["depth"] == 1 else forked(p["depth"], one), begun)


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


# Small files.

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
        sizes = [n for key, n in client.list(p["key"] + "/").items() if not key.endswith("/")]
        return len(sizes) >= count and sum(sizes) >= size

    until(stored)


def read_small(p):
    def some(n):
        for i in range(n, p["count"], p["readers"]):
            with open(f"{p['path']}/f{i:05}", "rb", buffering=0) as f:
                if f.read(len(SMALL) + 1) != SMALL:
                    raise OSError(f"wrong bytes in file {i}")
        return 0

    begun = time.monotonic()
    if p["readers"] == 1:
        some(0)
    else:
        forked(p["readers"], some)
    return rate(p["count"], begun)


def delete(p):
    """One unlink after the other, until the store has none of them."""
    begun = time.monotonic()
    for i in range(p["count"]):
        os.unlink(f"{p['path']}/f{i:05}")
    closed = time.monotonic() - begun
    gone(p)
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def gone(p):
    if "client" in p:
        client = Client(**p["client"])
        until(lambda: not [k for k in client.list(p["key"] + "/") if not k.endswith("/")])


def remove_tree(p):
    """`rm -r` of a directory of small files."""
    begun = time.monotonic()
    subprocess.run(["rm", "-r", p["path"]], check=True)
    closed = time.monotonic() - begun
    gone(p)
    return {"seconds": time.monotonic() - begun, "close_s": closed}


# Trees.

def untar(p):
    begun = time.monotonic()
    os.makedirs(p["path"])
    subprocess.run(["tar", "-xf", p["tar"], "-C", p["path"]], check=True)
    closed = time.monotonic() - begun
    until_tree(p, p["count"], p["bytes"])
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def clone(p):
    begun = time.monotonic()
    subprocess.run(["git", "clone", "-q", f"file://{p['repository']}", p["path"]], check=True)
    closed = time.monotonic() - begun
    # The checked-out files; how many files git keeps is its own business.
    until_tree(p, p["count"], p["bytes"])
    status = subprocess.run(["git", "-C", p["path"], "status", "--porcelain"], capture_output=True, check=True)
    if status.stdout:
        raise OSError("the clone differs from what it was made of")
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def rename_tree(p):
    begun = time.monotonic()
    os.rename(p["path"], p["path"] + "-new")
    closed = time.monotonic() - begun
    if "client" in p:
        client = Client(**p["client"])
        files = lambda key: sum(not k.endswith("/") for k in client.list(key))  # noqa: E731
        until(lambda: files(p["key"] + "-new/") == p["count"] and files(p["key"] + "/") == 0)
    return {"seconds": time.monotonic() - begun, "close_s": closed}


def listing(p):
    begun = time.monotonic()
    done = subprocess.run(["ls", "-l", p["path"]], capture_output=True, check=True)
    seconds = time.monotonic() - begun
    files = sum(line.startswith(b"-") for line in done.stdout.splitlines())
    if files != p["count"]:
        raise OSError(f"{files} files listed, not {p['count']}")
    return {"value": seconds, "seconds": seconds}


def find(p):
    begun = time.monotonic()
    done = subprocess.run(["find", p["path"], "-type", "f", "-printf", "%s\n"], capture_output=True, check=True)
    seconds = time.monotonic() - begun
    if len(done.stdout.split()) != p["count"]:
        raise OSError(f"{len(done.stdout.split())} files found, not {p['count']}")
    return {"value": seconds, "seconds": seconds}


def stat(p):
    """stat(2) of random names, by eight processes; calls a second."""
    def some(n):
        places, done, begun = random.Random(p["seed"] + n), 0, time.monotonic()
        while done < p["calls"] // THREADS and time.monotonic() - begun < p["limit"]:
            i = places.randrange(p["count"])
            if os.stat(f"{p['path']}/{tree_name(i)}").st_size != 1:
                raise OSError(f"wrong size of {tree_name(i)}")
            done += 1
        return done

    begun = time.monotonic()
    return rate(forked(THREADS, some), begun)


def tree_name(i):
    """File number `i` of the tree that is searched: a thousand in a directory."""
    return f"d{i // 1000:03}/e{i:06}"


# The same things without a file system: parallel requests of a plain client.

def client_write(p):
    client, blocks = Client(**p["client"]), [block(i) for i in range(p["mib"])]
    per = PART // MIB
    begun = time.monotonic()
    client.upload(p["key"], -(-p["mib"] // per), lambda n: b"".join(blocks[(n - 1) * per:n * per]), THREADS)
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "close_s": seconds}


def client_read(p):
    """In two processes: one interpreter takes the bytes of one connection at a time."""
    parts = list(range(0, p["mib"] * MIB, PART))

    def some(n):
        import threading
        local, client = threading.local(), Client(**p["client"])

        def part(at):
            if not hasattr(local, "buffer"):
                local.buffer = bytearray(PART)
            end = min(at + PART, p["mib"] * MIB)
            data = client.get(p["key"], at, end, into=memoryview(local.buffer)[:end - at])
            for i in range(len(data) // MIB):
                check(data[i * MIB:(i + 1) * MIB], at // MIB + i)

        parallel(parts[n::2], THREADS, part)
        return 0

    begun = time.monotonic()
    forked(2, some)
    return rate(p["mib"] * MIB / 1e6, begun)


def client_random_read(p):
    size = p["size"]

    def one(n):
        client, places, done, begun = Client(**p["client"]), random.Random(p["seed"] + n), 0, time.monotonic()
        while done < p["reads"] // p["depth"] and time.monotonic() - begun < p["limit"]:
            at = places.randrange(p["mib"] * MIB // size) * size
            client.get(p["key"], at, at + size)
            done += 1
        return done

    begun = time.monotonic()
    return rate(one(0) if p["depth"] == 1 else forked(p["depth"], one), begun)


def client_create(p):
    client = Client(**p["client"])
    begun = time.monotonic()
    parallel(range(p["count"]), p["writers"], lambda i: client.put(f"{p['key']}/f{i:05}", SMALL))
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "close_s": seconds}


def client_read_small(p):
    def some(n):
        client = Client(**p["client"])
        for i in range(n, p["count"], p["readers"]):
            if client.send("GET", f"{p['key']}/f{i:05}")[1] != SMALL:
                raise OSError(f"wrong bytes in object {i}")
        return 0

    begun = time.monotonic()
    some(0) if p["readers"] == 1 else forked(p["readers"], some)
    return rate(p["count"], begun)


def client_listing(p):
    begun = time.monotonic()
    keys = [k for k in Client(**p["client"]).list(p["key"] + "/") if not k.endswith("/")]
    seconds = time.monotonic() - begun
    if len(keys) != p["count"]:
        raise OSError(f"{len(keys)} keys listed, not {p['count']}")
    return {"value": seconds, "seconds": seconds}


client_find = client_listing

WORK = {f.__name__: f for f in (
    read, random_read, write, append, change, create, read_small, delete, remove_tree, untar, clone, rename_tree,
    listing, find, stat, client_write, client_read, client_random_read, client_create, client_read_small,
    client_listing)}
WORK["client_find"] = client_find
