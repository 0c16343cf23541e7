"""Tables in Markdown, pictures in SVG and all samples in JSON of one run."""
import datetime
import html
import json
import math
import os
import platform
import statistics

from mounts import GUARANTEES, MODELS, READ_ONLY, WRITE_ONLY
from scenarios import ALL, titles

# (scenario, model or None) → how much better than the best peer of the run xosfs is meant to be.
TARGETS = {
    ("seq-read-1", None): 1.5, ("seq-read-4", None): 1.5, ("seq-again-1", None): 1, ("seq-again-4", None): 1,
    ("random-4k-1", None): 1, ("random-128k-1", None): 1, ("random-4k-8", None): 1, ("random-128k-8", None): 1,
    ("small-read-1", "loopback"): 1.2, ("small-read-1", "cloud"): 8, ("small-read-8", "loopback"): 1.2,
    ("small-read-8", "cloud"): 3, ("small-again-1", None): 1.2, ("small-again-8", None): 1.2,
    ("ls", None): 1.67, ("ls-again", None): 1, ("find", None): 1, ("find-again", None): 1,
    ("stat", None): 1.5, ("stat-again", None): 0.9,
    ("seq-write", None): 1.3, ("create-1", None): 4, ("create-8", None): 8, ("delete", None): 1, ("rm-r", None): 10,
    ("untar", None): 2, ("clone", None): 2, ("rename", None): 2,
}
COLOURS = ["#3366cc", "#dc3912", "#ff9900", "#109618", "#990099", "#0099c6", "#888888", "#bbbbbb"]


def number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def lines(rows):
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


class Report:
    def __init__(self, samples, args):
        self.samples, self.args = samples, args
        self.mounts = [*args.mounts, "client", "local"]
        self.found = {}
        for s in samples:
            if "failed" not in s:
                self.found.setdefault((s["model"], s["scenario"], s["mount"]), []).append(s)

    def get(self, model, scenario, mount, figure):
        """The median; `None` when there is none."""
        values = [s[figure] for s in self.found.get((model, scenario, mount), []) if figure in s]
        if figure == "requests":
            values = [sum(v.values()) for v in values]
        return statistics.median(values) if values else None

    def columns(self, writes):
        return [m for m in self.mounts if m not in (READ_ONLY if writes else WRITE_ONLY)]

    def ours(self, writes):
        return "xosfs"

    def peers(self, writes):
        """Mounts that promise no less: a close() that does not wait is not compared with one that does."""
        weak = {"rclone", "rclone-writes"} if writes else set()
        return [m for m in self.args.mounts if not m.startswith("xosfs") and m not in weak]

    def better(self, model, scenario, unit, writes):
        """(the best peer, how many times better xosfs is), or `None`."""
        figure = "seconds" if writes else "value"
        mine = self.get(model, scenario, self.ours(writes), figure)
        less = unit == "s"
        others = [(v, m) for m in self.peers(writes) if (v := self.get(model, scenario, m, figure))]
        if not mine or not others:
            return None
        best, who = (min if less else max)(others)
        return who, (best / mine if less else mine / best)

    def verdict(self, model, scenario, ratio):
        target = TARGETS.get((scenario, model), TARGETS.get((scenario, None)))
        if target is None:
            return ""
        return f"≥ {target:g}: {'met' if ratio >= target else 'missed'}"

    def table(self, model, writes):
        names = self.columns(writes)
        first = "seconds until closed, until stored" if writes else "higher is better, unless it is seconds"
        rows = [[first, *names, "xosfs : best peer", "target"]]
        for scenario, title, unit in titles(writes):
            cells = []
            for m in names:
                if writes:
                    pair = [self.get(model, scenario, m, f) for f in ("close_s", "seconds")]
                    cells.append(", ".join(map(number, pair)) if all(x is not None for x in pair) else "–")
                else:
                    value = self.get(model, scenario, m, "value")
                    cells.append("–" if value is None else number(value))
            if all(c == "–" for c in cells):
                continue
            better = self.better(model, scenario, unit, writes)
            last = [f"{better[1]:.2f} ({better[0]})", self.verdict(model, scenario, better[1])] if better else ["–", ""]
            rows.append([title if writes else f"{title} ({unit})", *cells, *last])
        return lines(rows) if len(rows) > 1 else ""

    def costs(self, model):
        names = self.args.mounts
        rows = [["requests, CPU s of the daemon, peak MiB", *names]]
        for writes in (False, True):
            for scenario, title, _ in titles(writes):
                cells = []
                for m in names:
                    figures = [self.get(model, scenario, m, f) for f in ("requests", "daemon_cpu_s", "daemon_peak_mib")]
                    cells.append("–" if figures[1] is None else f"{figures[0]:.0f}, {figures[1]:.2f}, {figures[2]:.0f}")
                if any(c != "–" for c in cells):
                    rows.append([title, *cells])
        return lines(rows) if len(rows) > 1 else ""

    def text(self):
        a = self.args
        with open("/proc/cpuinfo") as f:
            cpu = next((x.split(":", 1)[1].strip() for x in f if x.startswith("model name")), platform.machine())
        busy = [x["machine_cpu"] for x in self.samples if "machine_cpu" in x]
        if not busy:
            return "No samples.\n"
        text = [f"{datetime.date.today()}, {os.cpu_count()} × {cpu}, Linux {platform.release()}; {a.mib} MiB, {a.files} "
                f"files of 8 KiB, {a.entries} entries, {a.tree} files in the tree, medians of {a.rounds} rounds; the "
                f"machine was {statistics.median(busy):.0%} busy."]
        for model in a.models:
            text += ["", f"### {model}: {MODELS[model][0]}", "", self.table(model, False), "", self.table(model, True), "",
                     self.costs(model)]
        text += ["", *(f"When {m} has closed a file: {GUARANTEES[m]}." for m in a.mounts if m in GUARANTEES)]
        text += ["", *(f"Failed: {x['scenario']} on {x['mount']} ({x['model']}, round {x['round']}): {x['failed']}"
                       for x in self.samples if "failed" in x)]
        out = "\n".join(text)
        while "\n\n\n" in out:
            out = out.replace("\n\n\n", "\n\n")
        return out.rstrip() + "\n"

    def picture(self, model):
        """Bars for each scenario, in units of xosfs; the longer the better, on a logarithmic scale."""
        rows = []
        for s in ALL:
            for scenario, title in [(s.name, s.title), (s.again, s.again_title)]:
                figure, less = ("seconds", True) if s.writes else ("value", s.unit == "s")
                values = {m: self.get(model, scenario, m, figure) for m in self.columns(s.writes)}
                mine = values.get(self.ours(s.writes))
                if scenario and mine:
                    bars = [(m, mine / v if less else v / mine) for m, v in values.items() if v]
                    rows.append((title.replace("`", ""), bars))
        if not rows:
            return None
        wide, left, bar, gap = 560, 330, 9, 12
        low = min(0.1, min(x for _, bars in rows for _, x in bars))
        high = max(10.0, max(x for _, bars in rows for _, x in bars))
        place = lambda x: left + wide * math.log(x / low) / math.log(high / low)  # noqa: E731
        colour = dict(zip(self.mounts, COLOURS))
        out, y = [], 50
        for title, bars in rows:
            middle = y + len(bars) * bar / 2 + 4
            out.append(f'<text x="{left - 8}" y="{middle:.0f}" text-anchor="end">{html.escape(title)}</text>')
            for mount, x in bars:
                out.append(f'<rect x="{left}" y="{y}" width="{max(1, place(x) - left):.1f}" height="{bar - 1}" '
                           f'fill="{colour[mount]}"><title>{html.escape(mount)}: {x:.3g}</title></rect>')
                y += bar
            y += gap
        axis = []
        for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
            x = place(10.0 ** power)
            stroke = "#000" if power == 0 else "#ddd"
            axis.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="40" y2="{y}" stroke="{stroke}"/>'
                        f'<text x="{x:.1f}" y="{y + 14}" text-anchor="middle">{10.0 ** power:g}</text>')
        legend = []
        for i, m in enumerate(self.mounts):
            x = 12 + i * 115
            legend.append(f'<rect x="{x}" y="26" width="10" height="10" fill="{colour[m]}"/>'
                          f'<text x="{x + 14}" y="35">{html.escape(m)}</text>')
        head = f'<text x="12" y="16" font-weight="bold">{model}: {MODELS[model][0]}; xosfs is 1, longer is better</text>'
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 40}" height="{y + 24}" '
                f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
                + "".join([head, *legend, *axis, *out]) + "</svg>\n")

    def write(self):
        text = self.text()
        print(text, end="")
        if not self.args.out:
            return
        os.makedirs(self.args.out, exist_ok=True)
        with open(f"{self.args.out}/table.md", "w") as f:
            f.write(text)
        with open(f"{self.args.out}/results.json", "w") as f:
            json.dump({"arguments": vars(self.args), "samples": self.samples}, f, indent=1)
        for model in self.args.models:
            if picture := self.picture(model):
                with open(f"{self.args.out}/{model}.svg", "w") as f:
                    f.write(picture)
