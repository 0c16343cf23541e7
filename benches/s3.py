"""What a benchmark needs of S3: a signing client, and a proxy that counts and delays requests.

1. The client is also the yardstick: what it reaches with plain parallel requests is what a mount could reach.
2. The proxy forwards bytes and looks at request heads only, so it counts what was sent, not what somebody says was
   sent. Signatures stay valid because the Host header is passed on as it came.
"""
import asyncio
import collections
import contextlib
import datetime
import hashlib
import hmac
import http.client
import re
import threading
import urllib.parse

MIB = 1 << 20


class Client:
    """One connection per thread; payloads are not hashed, as S3 permits."""

    def __init__(self, port, access, secret, bucket, region="us-east-1"):
        self.port, self.access, self.secret, self.bucket, self.region = port, access, secret, bucket, region
        self.local = threading.local()

    def send(self, method, key="", query=None, body=None, headers=None, into=None):
        """The answer's headers and body. `into`: a buffer that takes the body instead."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = f"/{self.bucket}/{urllib.parse.quote(key)}" if key else f"/{self.bucket}"
        quoted = sorted((urllib.parse.quote(k, safe=""), urllib.parse.quote(v, safe="")) for k, v in (query or {}).items())
        query = "&".join(f"{k}={v}" for k, v in quoted)
        head = {"host": f"127.0.0.1:{self.port}", "x-amz-date": now, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        names = ";".join(sorted(head))
        lines = "".join(f"{k}:{head[k]}\n" for k in sorted(head))
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        mac = b"AWS4" + self.secret.encode()
        for part in (now[:8], self.region, "s3", "aws4_request", text):
            mac = hmac.new(mac, part.encode(), hashlib.sha256).digest()
        auth = f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={names}, Signature={mac.hex()}"
        head = dict(head, authorization=auth, **(headers or {}))
        if body is not None or method in ("PUT", "POST"):
            head["content-length"] = str(len(body or b""))
        connection = getattr(self.local, "connection", None)
        reused = connection is not None
        if not reused:
            connection = self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            try:
                connection.request(method, path + ("?" + query if query else ""), body=body, headers=head)
                answer = connection.getresponse()
            except ConnectionError:
                if not reused:
                    raise
                # The server had closed the connection while it was idle.
                connection.close()
                connection.request(method, path + ("?" + query if query else ""), body=body, headers=head)
                answer = connection.getresponse()
            if answer.status >= 300:
                raise OSError(f"{method} {key}: {answer.status} {answer.read()[:300]!r}")
            if into is None:
                return answer.headers, answer.read()
            view, at = memoryview(into), 0
            while at < len(view) and (n := answer.readinto(view[at:])):
                at += n
            answer.read()
            return answer.headers, view[:at]
        except Exception:
            connection.close()
            self.local.connection = None
            raise

    def put(self, key, body):
        self.send("PUT", key, body=body)

    def get(self, key, start, end, into=None):
        return self.send("GET", key, headers={"range": f"bytes={start}-{end - 1}"}, into=into)[1]

    def size(self, key):
        """Bytes; `None` when there is no such object."""
        try:
            return int(self.send("HEAD", key)[0]["content-length"])
        except OSError as e:
            if ": 404 " in str(e):
                return None
            raise

    def delete(self, key):
        self.send("DELETE", key)

    def copy(self, source, key):
        self.send("PUT", key, headers={"x-amz-copy-source": f"/{self.bucket}/{source}"})

    def list(self, prefix):
        """All keys below `prefix` and their sizes, page after page."""
        keys, query = {}, {"list-type": "2", "prefix": prefix}
        while True:
            text = self.send("GET", query=query)[1].decode()
            keys.update(zip(re.findall(r"<Key>(.*?)</Key>", text), map(int, re.findall(r"<Size>(.*?)</Size>", text))))
            token = re.search(r"<NextContinuationToken>(.*?)</NextContinuationToken>", text)
            if not token:
                return keys
            query["continuation-token"] = token[1]

    def upload(self, key, count, part, threads):
        """A multipart upload of `count` parts; `part(number)` makes the bytes of each."""
        text = self.send("POST", key, query={"uploads": ""})[1].decode()
        upload = re.search(r"<UploadId>(.*?)</UploadId>", text)[1]
        etags = {}

        def one(n):
            query = {"partNumber": str(n), "uploadId": upload}
            etags[n] = self.send("PUT", key, query=query, body=part(n))[0]["etag"]

        parallel(range(1, count + 1), threads, one)
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etags[n]}</ETag></Part>" for n in sorted(etags))
        self.send("POST", key, query={"uploadId": upload},
                  body=f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode())


def parallel(items, threads, work):
    """`work` for each of `items`, in `threads` threads; raises the first failure."""
    todo, lock, failed = iter(items), threading.Lock(), []

    def run():
        while not failed:
            with lock:
                item = next(todo, None)
            if item is None:
                return
            try:
                work(item)
            except Exception as e:  # noqa: BLE001 - handed to the caller
                failed.append(e)

    pool = [threading.Thread(target=run) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if failed:
        raise failed[0]


def kind_of(method, target):
    """The operation of a request line, coarse enough to compare clients."""
    path, _, query = target.partition("?")
    names = {q.split("=")[0] for q in query.split("&") if q}
    if method == "GET" and path.strip("/").count("/") == 0:
        return "LIST" if names & {"list-type", "prefix", "delimiter", "max-keys"} or not names else "BUCKET"
    if method == "PUT" and "partNumber" in names:
        return "PART"
    return method


class Proxy(threading.Thread):
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`; each byte of an answer arrives `delay` seconds late."""

    def __init__(self, target, delay):
        super().__init__(daemon=True)
        self.target, self.delay, self.port = target, delay, None
        self.counts, self.sent, self.ready = collections.Counter(), 0, threading.Event()
        self.start()
        self.ready.wait(10)

    def take(self):
        """The requests and the MB of their bodies since the last call."""
        counts, self.counts, sent, self.sent = self.counts, collections.Counter(), self.sent, 0
        return dict(counts), sent / 1e6

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=MIB, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        async with server:
            await server.serve_forever()

    async def connection(self, reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=MIB)
        except OSError:
            writer.close()
            return
        for stream in (writer, up_writer):
            stream.transport.set_write_buffer_limits(high=8 * MIB)
        down = asyncio.create_task(self.answers(up_reader, writer))
        # Clients and servers end connections as they like; neither end is of interest here.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self.requests(reader, up_writer)
        up_writer.close()
        await down

    async def requests(self, reader, writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
            self.counts[kind_of(method, target)] += 1
            fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
            fields = {k.strip().lower(): v.strip() for k, v in fields.items()}
            if b"chunked" in fields.get(b"transfer-encoding", b""):
                raise OSError("a chunked request: not counted, not forwarded")
            writer.write(head)
            left = int(fields.get(b"content-length", 0))
            while left:
                data = await reader.read(min(left, MIB))
                if not data:
                    return
                left -= len(data)
                self.sent += len(data)
                writer.write(data)
                await writer.drain()

    async def answers(self, reader, writer):
        """Reads on while bytes wait for their time: a delay is no limit on the rate."""
        waiting, loop = asyncio.Queue(), asyncio.get_running_loop()
        room = asyncio.Semaphore(256)

        async def late():
            gone = False
            while True:
                due, data = await waiting.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                room.release()
                if not data:
                    return
                try:
                    if not gone:
                        writer.write(data)
                        await writer.drain()
                except OSError:
                    gone = True

        sender = asyncio.create_task(late())
        data = True
        while data:
            await room.acquire()
            try:
                data = await reader.read(MIB)
            except OSError:
                data = b""
            waiting.put_nowait((loop.time() + self.delay, data))
        await sender
        writer.close()
