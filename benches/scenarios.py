"""What is measured: the table that the runs and the report go by."""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    work: str
    """A function of work.py."""
    unit: str = "s"
    """Of the figure `value`; more is better unless it is seconds. Writes have two figures, both seconds."""
    fixed: dict = field(default_factory=dict)
    counts: tuple = ()
    """(parameter, argument of the command line) pairs."""
    key: str = ""
    """What it works on; a place of its own otherwise."""
    again: str = ""
    """Name of its repetition in the same mount."""
    again_title: str = ""
    drops: bool = False
    """The page cache is dropped before the repetition."""
    writes: bool = False
    needs_files: bool = False
    alone: bool = False
    """There is no plain client, or no local disk, that does the same."""

    def parameters(self, args):
        return dict(self.fixed, **{p: getattr(args, a) for p, a in self.counts})

    def count(self, args):
        return self.parameters(args)["count"]


def random_read(size, depth):
    return Scenario(f"random-{size >> 10}k-{depth}", f"random reads of {size >> 10} KiB, {depth} at a time, cold",
                    "random_read", "reads/s", dict(size=size, depth=depth), (("reads", "reads"),), "large")


def streams(n):
    what = "1 stream" if n == 1 else f"{n} streams"
    return Scenario(f"seq-read-{n}", f"read a large file cold, {what}", "read", "MB/s", dict(streams=n), (), "large",
                    f"seq-again-{n}", f"again with an empty page cache, {what}", True)


def readers(n):
    what = "1 reader" if n == 1 else f"{n} readers"
    return Scenario(f"small-read-{n}", f"read files of 8 KiB cold, {what}", "read_small", "files/s", dict(readers=n),
                    (("count", "files"),), "", f"small-again-{n}", f"the same again, {what}", needs_files=True)


FILES, TREE, ENTRIES = (("count", "files"),), (("count", "tree"),), (("count", "entries"),)
ALL = [
    streams(1), streams(4),
    random_read(4096, 1), random_read(131072, 1), random_read(4096, 8), random_read(131072, 8),
    readers(1), readers(8),
    Scenario("ls", "`ls -l` of a large directory, cold", "listing", "s", {}, ENTRIES, "many", "ls-again",
             "`ls -l` again"),
    Scenario("find", "`find` over many directories, cold", "find", "s", {}, TREE, "tree", "find-again", "`find` again"),
    Scenario("stat", "stat of random names of those, 8 processes, cold", "stat", "calls/s", {},
             (("count", "tree"), ("calls", "stats")), "tree", "stat-again", "stat of the same names again", alone=True),
    Scenario("seq-write", "write a large file", "write", writes=True),
    Scenario("create-1", "create files of 8 KiB, 1 writer", "create", fixed=dict(writers=1), counts=FILES, writes=True),
    Scenario("create-8", "create files of 8 KiB, 8 writers", "create", fixed=dict(writers=8), counts=FILES, writes=True),
    Scenario("delete", "delete files one after the other", "delete", counts=FILES, writes=True, needs_files=True,
             alone=True),
    Scenario("rm-r", "`rm -r` of a directory of files", "remove_tree", counts=FILES, writes=True, needs_files=True,
             alone=True),
    Scenario("untar", "`tar -xf` of a source tree", "untar", writes=True, alone=True),
    Scenario("clone", "`git clone` of the same tree", "clone", writes=True, alone=True),
    Scenario("rename", "rename of a directory of 500 objects", "rename_tree", fixed=dict(count=500), writes=True,
             needs_files=True, alone=True),
    Scenario("append", "append 1 MiB to a large object", "append", writes=True, alone=True),
    Scenario("change", "change 4 KiB in the middle of a large object", "change", writes=True, alone=True),
]


def titles(writes):
    """(name, title, unit) of every row, repetitions included."""
    for s in ALL:
        if s.writes == writes:
            yield s.name, s.title, s.unit
            if s.again:
                yield s.again, s.again_title, s.unit
