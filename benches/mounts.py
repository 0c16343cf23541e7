"""The mounts that are compared, the server they are on, and one sample of one scenario."""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from s3 import Client, parallel
from work import SMALL, block, forked, tree_name

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUCKET = "bench"
TICK = os.sysconf("SC_CLK_TCK")
# What the server makes of the way to it.
MODELS = {
    "loopback": ("no delay, no limit", []),
    "cloud": ("20 ms to the first byte, 90 MB/s a connection", ["--latency", "20", "--bandwidth", "87890K"]),
}
# Each as a user would start it, with what it needs to do the same work: s3fs its path style, rclone its cache (no
# random writes without it) and no delay before the upload.
COMMANDS = {
    "xosfs": "{xosfs} mount {bucket} {dir} --foreground -o endpoint={endpoint},state_dir={work}/state",
    "s3fs": "s3fs {bucket} {dir} -f -o url={endpoint} -o use_path_request_style -o passwd_file={work}/passwd-s3fs",
    "rclone": "rclone mount :s3:{bucket} {dir} --config /dev/null --s3-provider Other --s3-endpoint {endpoint} "
              "--s3-force-path-style --s3-env-auth --s3-no-check-bucket --vfs-cache-mode full --vfs-write-back 0s "
              "--cache-dir {cache}",
}
# The same with a close() that promises less; they differ in writing only. rclone's delay is about that of xosfs.
COMMANDS["xosfs-writeback"] = COMMANDS["xosfs"] + ",writeback"
COMMANDS["rclone-writes"] = COMMANDS["rclone"].replace("-mode full", "-mode writes").replace("back 0s", "back 100ms")
# With its blocks on a disk; it differs in reading only.
COMMANDS["xosfs-cache"] = COMMANDS["xosfs"] + ",cache_dir={cache}"
WRITE_ONLY, READ_ONLY = {"xosfs-writeback", "rclone-writes"}, {"xosfs-cache"}
GUARANTEES = {
    "xosfs": "the store has it", "s3fs": "the store has it",
    "rclone": "in a cache on disk, not synced; upload begins", "rclone-writes": "in a cache on disk, not synced",
    "xosfs-writeback": "in a journal on disk, synced: survives a power failure",
}


def note(text):
    print(f"# {text}", file=sys.stderr, flush=True)


def cpu_of(pid):
    """CPU seconds of a process so far."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    except OSError:
        return 0.0


def machine_cpu():
    with open("/proc/stat") as f:
        fields = [int(x) for x in f.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def peak_mib(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0.0


def mounted(path):
    with open("/proc/self/mounts") as f:
        return any(line.split()[1] == path for line in f)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")


class Failed(Exception):
    pass


class Bench:
    """One server with one model; `samples` takes what was measured."""

    def __init__(self, args, model, samples):
        self.args, self.model, self.samples, self.round = args, model, samples, 0
        self.work = tempfile.mkdtemp(prefix="xosfs-bench-")
        self.local = f"{self.work}/local"
        argv = [args.xosfs, "demo", "--serve-only", "--bucket", BUCKET, *MODELS[model][1]]
        # Away from the terminal: an interrupt ends the run, which then still has to unmount.
        self.server = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                       start_new_session=True)
        exports = {}
        for line in self.server.stdout:
            if line.strip() == "ready":
                break
            name, _, value = line.strip().partition("=")
            exports[name] = value
        else:
            raise SystemExit("the embedded server did not start")
        self.endpoint = exports["AWS_ENDPOINT_URL"]
        self.keys = {"access": exports["AWS_ACCESS_KEY_ID"], "secret": exports["AWS_SECRET_ACCESS_KEY"]}
        self.settings = dict(self.keys, port=int(self.endpoint.rsplit(":", 1)[1]), bucket=BUCKET)
        self.client = Client(**self.settings)
        with open(os.open(f"{self.work}/passwd-s3fs", os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write("{access}:{secret}\n".format(**self.keys))

    def requests(self):
        """Requests of each kind since the server began."""
        self.server.send_signal(signal.SIGUSR1)
        return json.loads(self.server.stdout.readline())["requests"]

    def put_many(self, names, content):
        def some(n):
            client = Client(**self.settings)
            parallel(names[n::4], 16, lambda name: client.put(name, content))
            return 0

        forked(4, some)

    def fill(self):
        a = self.args
        begun = time.monotonic()
        self.client.upload("large", -(-a.mib // 8), lambda n: b"".join(
            block(i) for i in range((n - 1) * 8, min(n * 8, a.mib))), 8)
        self.put_many([f"many/e{i:06}" for i in range(a.entries)], b"x")
        self.put_many([f"tree/{tree_name(i)}" for i in range(a.tree)], b"x")
        self.tar, self.repository = f"{self.work}/tree.tar", f"{self.work}/repository"
        for name in ("src", "tests"):
            shutil.copytree(f"{ROOT}/{name}", f"{self.repository}/{name}")
        with tarfile.open(self.tar, "w") as tar:
            for name in ("src", "tests"):
                tar.add(f"{self.repository}/{name}", name)
            files = [m.size for m in tar.getmembers() if m.isfile()]
        self.files = dict(count=len(files), bytes=sum(files))
        git = ["git", "-C", self.repository, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        for argv in (["init", "-q"], ["add", "."], ["commit", "-qm", "tree"]):
            subprocess.run([*git, *argv], check=True)
        os.makedirs(f"{self.local}/many")
        with open(f"{self.local}/large", "wb") as f:
            for i in range(a.mib):
                f.write(block(i))
        self.fill_local("many", a.entries, b"x", lambda i: f"e{i:06}")
        self.fill_local("tree", a.tree, b"x", tree_name)
        note(f"{self.model}: filled in {time.monotonic() - begun:.0f} s")

    def fill_local(self, where, count, content, name):
        for i in range(count):
            path = f"{self.local}/{where}/{name(i)}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(content)

    def close(self):
        """Ends the server. What is still mounted stays, and its logs with it."""
        self.server.send_signal(signal.SIGTERM)
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
        left = [f"{self.work}/mnt-{m}" for m in self.args.mounts if mounted(f"{self.work}/mnt-{m}")]
        if left:
            note(f"still mounted: {' '.join(left)}")
        elif any("failed" in s for s in self.samples):
            for name in os.listdir(self.work):
                if not name.endswith(".log"):
                    path = f"{self.work}/{name}"
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
            note(f"logs are in {self.work}")
        else:
            shutil.rmtree(self.work, ignore_errors=True)

    # One mount at a time.

    @contextlib.contextmanager
    def target(self, name):
        """A fresh way to the bucket: where it is mounted and the process that serves it."""
        if name in ("client", "local"):
            yield self.local, None
            return
        where, cache = f"{self.work}/mnt-{name}", f"{self.work}/cache-{name}"
        shutil.rmtree(cache, ignore_errors=True)
        for path in (where, cache):
            os.makedirs(path, mode=0o700, exist_ok=True)
        fields = dict(dir=where, work=self.work, bucket=BUCKET, endpoint=self.endpoint, cache=cache, xosfs=self.args.xosfs)
        argv = self.args.commands[name].format(**fields).split()
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        env.update(AWS_ACCESS_KEY_ID=self.keys["access"], AWS_SECRET_ACCESS_KEY=self.keys["secret"])
        with open(f"{self.work}/{name}.log", "a") as log:
            daemon = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                      start_new_session=True)
        try:
            until = time.monotonic() + 30
            while not mounted(where):
                if daemon.poll() is not None or time.monotonic() > until:
                    with open(f"{self.work}/{name}.log") as log:
                        raise Failed(f"{name} did not mount: {log.read()[-300:].strip()}")
                time.sleep(0.02)
            self.run_worker(["stat", where], 30)
            yield where, daemon.pid
        finally:
            self.end(where, daemon)
            shutil.rmtree(cache, ignore_errors=True)

    def end(self, where, daemon):
        """Unmounts; waits for what is still to be uploaded, but not for ever."""
        until = time.monotonic() + 60
        while mounted(where) and daemon.poll() is None and time.monotonic() < until:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(["umount", where], stderr=subprocess.DEVNULL, timeout=30)
            if mounted(where):
                time.sleep(0.2)
        try:
            daemon.wait(max(1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        if mounted(where):
            subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL, timeout=30, check=False)

    def run_worker(self, argv, limit):
        """A process that touches a mount. One that hangs is left behind: it dies with its mount."""
        worker = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = worker.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            worker.kill()
            raise Failed(f"not done after {limit} s") from None
        if worker.returncode:
            raise Failed((err.strip().splitlines() or [f"exit {worker.returncode}"])[-1])
        return out

    def sample(self, scenario, name, daemon, work, **parameters):
        """Runs one function of work.py and records what it cost; whether it was done."""
        if name == "client":
            work = f"client_{work}"
        if name != "local":
            parameters["client"] = self.settings
        parameters.update(mib=self.args.mib, seed=7, limit=self.args.patience / 2)
        asked = self.requests()
        before = machine_cpu(), cpu_of(daemon), cpu_of(self.server.pid), time.monotonic()
        record = {"model": self.model, "scenario": scenario, "mount": name, "round": self.round}
        try:
            text = json.dumps([work, parameters])
            out = self.run_worker([sys.executable, f"{ROOT}/benches/run", "--worker", text], self.args.patience)
            record.update(json.loads(out))
            record["daemon_cpu_s"] = cpu_of(daemon) - before[1]
            record["server_cpu_s"] = cpu_of(self.server.pid) - before[2]
            record["machine_cpu"] = (machine_cpu() - before[0]) / (time.monotonic() - before[3]) / os.cpu_count()
            record["daemon_peak_mib"] = peak_mib(daemon)
            figure = f"closed {record['close_s']:.3g} s, stored {record['seconds']:.3g} s" if "close_s" in record else (
                f"{record['value']:.4g}")
            note(f"{self.model} {self.round} {scenario} {name}: {figure}, daemon {record['daemon_cpu_s']:.2f} s CPU")
        except Failed as e:
            record["failed"] = str(e)
            note(f"{self.model} {self.round} {scenario} {name}: FAILED: {e}")
        now = self.requests()
        record["requests"] = {k: n - asked.get(k, 0) for k, n in now.items() if n > asked.get(k, 0)}
        self.samples.append(record)
        return "failed" not in record

    def scenario(self, s, name):
        """Runs scenario `s`, and the one that repeats it in the same mount."""
        a = self.args
        key = f"x-{name}-{self.round}-{s.name}"
        if s.work in ("append", "change"):
            self.client.copy("large", key)
        if s.needs_files and name != "local":
            self.put_many([f"{key}/f{i:05}" for i in range(s.count(a))], SMALL)
        elif s.needs_files:
            self.fill_local(key, s.count(a), SMALL, lambda i: f"f{i:05}")
        try:
            with self.target(name) as (where, daemon):
                drop_caches()
                at = s.key or key
                p = dict(s.parameters(a), path=f"{where}/{at}", key=at)
                if s.work == "write":
                    p["sync"] = name == "local"
                elif s.work == "untar":
                    p.update(tar=self.tar, **self.files)
                elif s.work == "clone":
                    p.update(repository=self.repository, **self.files)
                done = self.sample(s.name, name, daemon, s.work, **p)
                if done and s.again and name != "client":
                    if s.drops:
                        drop_caches()
                    self.sample(s.again, name, daemon, s.work, **p)
        finally:
            self.tidy(key)

    def tidy(self, key):
        """What a scenario left in the bucket and on the disk."""
        keys = list(self.client.list(key))
        forked(4, lambda n: parallel(keys[n::4], 16, Client(**self.settings).delete) or 0)
        for path in (f"{self.local}/{key}", f"{self.local}/{key}-new"):
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)


