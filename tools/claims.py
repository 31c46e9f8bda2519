"""CLAIMS.md: every claim of the source notes with its verdict, and the figure that shows it.

Claims and verdicts are written in assets/claims.json; figures are not. There `find` holds patterns. What they
find in the printed outputs of the session's cells with the tag `claim-ID` or `results` fills the braces of
`shows`. `make results` writes the page.
"""

import json
import re

import nbformat
from listing import ROOT, sessions

VERDICTS = ("holds", "holds if", "wrong", "not confirmed")
TOPICS = {
    "C": "Convolution, receptive field, pooling",
    "P": "The MNIST progression",
    "N": "Normalizing images",
    "B": "Batch normalization",
    "R": "Regularization",
    "A": "Augmentation",
    "K": "Kinds of convolution",
    "V": "Seeing what a network learned",
    "O": "Optimizers",
}
HEAD = """\
# What holds of the notes' claims

The course grew out of lecture notes. Every statement in them that can be tested is shown in running code, in
the section that its id leads to, and gets a verdict: it **holds**, it **holds if** a condition is met, it is
**wrong**, or it is **not confirmed**: what we tried shows something else, but other trials might not. The
last column is what the code printed, or where to look, in the full run whose outputs the notebooks carry.

{count} claims (one of them, V05, is a question of our own): {holds} hold, {conditions} hold with a condition,
{wrong} are wrong, {open} are not confirmed.
"""


def page(root=ROOT):
    """CLAIMS.md as text. A claim without a tagged cell, verdict or figure is an error; so is a lone tag."""
    claims = json.loads((root / "assets" / "claims.json").read_text(encoding="utf-8"))
    read = [Session(file) for file in sessions(root / "notebooks")]
    orphans = {tag for session in read for tag in session.tagged} - {claim["id"] for claim in claims}
    if orphans:
        raise SystemExit(
            f"assets/claims.json lacks {', '.join(sorted(orphans))}, which cells are tagged with"
        )
    verdicts = [claim["verdict"] for claim in claims]
    names = ("holds", "conditions", "wrong", "open")
    counts = {name: verdicts.count(verdict) for name, verdict in zip(names, VERDICTS, strict=True)}
    text = HEAD.format(count=len(claims), **counts)
    for letter, topic in TOPICS.items():
        text += f"\n## {topic}\n\n| id | the notes say | verdict | as printed |\n|---|---|---|---|\n"
        text += "".join(row(claim, read) for claim in claims if claim["id"][0] == letter)
    return text


def row(claim, sessions):
    name = claim["id"]
    if claim["verdict"] not in VERDICTS:
        raise SystemExit(f"assets/claims.json: the verdict on {name} is none of {', '.join(VERDICTS)}")
    homes = [session for session in sessions if name in session.tagged]
    if len(homes) != 1:
        raise SystemExit(f"{name} is tagged in {len(homes)} sessions, not in one")
    but = claim.get("but", "")
    if claim["verdict"] == "holds if":
        verdict = f"**holds if** {but}"
    else:
        link = ", " if claim["verdict"] == "holds" else ": "
        verdict = f"**{claim['verdict']}**" + (link + but if but else "")
    cells = f"[{name}]({homes[0].link(name)})", claim["claim"], verdict, figure(claim, homes[0])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def figure(claim, session):
    """The claim's sentence, with what its patterns find in the session's outputs."""
    if "shows" not in claim:
        if not session.pictures[claim["id"]]:
            raise SystemExit(f"{claim['id']} has neither a printed figure nor a picture")
        return "see the picture"
    printed = "\n".join(session.tagged[claim["id"]] + session.results)
    found = []
    for pattern in claim["find"]:
        match = re.search(pattern, printed)
        if match is None:
            raise SystemExit(f"{session.file.name} prints nothing for {claim['id']} that fits {pattern}")
        found.append(match[1])
    if len(found) != claim["shows"].count("{}"):
        raise SystemExit(f"{claim['id']} has {len(found)} patterns for {claim['shows'].count('{}')} braces")
    return claim["shows"].format(*found)


class Session:
    """What a notebook shows of the claims: printed text and pictures of each, and where verdicts stand."""

    def __init__(self, file):
        self.file, self.tagged, self.pictures, self.results, self.sections = file, {}, {}, [], {}
        heading = ""
        for cell in nbformat.read(file, as_version=4).cells:
            if cell.cell_type == "markdown":
                heading = self._read_prose(cell.source, heading)
            else:
                self._read_outputs(cell)

    def _read_prose(self, source, heading):
        for line in source.splitlines():
            if line.startswith("#"):
                heading = line.lstrip("# ")
            for names in re.findall(r"\*\*([^*]*?):", line):  # **P01, P03: hold
                for name in re.findall(r"\b[A-Z]\d\d\b", counted(names)):
                    self.sections.setdefault(name, heading)
        return heading

    def _read_outputs(self, cell):
        data = [output.get("data", {}) for output in cell.outputs]
        printed = [output.get("text", "") for output in cell.outputs]
        printed += [each.get("text/markdown", each.get("text/plain", "")) for each in data]
        tags = cell.metadata.get("tags", [])
        if "results" in tags:
            self.results += printed
        for name in (tag.removeprefix("claim-") for tag in tags if tag.startswith("claim-")):
            self.tagged.setdefault(name, []).extend(printed)
            self.pictures[name] = self.pictures.get(name, 0) + sum("image/png" in each for each in data)

    def link(self, name):
        """To the section with the verdict, whose address is made from its heading in the way of GitHub."""
        if name not in self.sections:
            raise SystemExit(f"{self.file.name} has no verdict on {name}: **{name}: holds.**")
        section = re.sub(r"[^\w\- ]", "", self.sections[name].lower()).replace(" ", "-")
        return f"notebooks/{self.file.name}#{section}"


def counted(names):
    """'P01–P03' as 'P01 P02 P03'."""

    def each(found):
        return " ".join(f"{found[1]}{number:02}" for number in range(int(found[2]), int(found[3]) + 1))

    return re.sub(r"\b([A-Z])(\d\d)–[A-Z](\d\d)", each, names)
