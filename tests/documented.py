"""What the documentation says, as tests read it: pages, snippets, links, anchors, messages."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "notebooks" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "data").rglob("README.md"),
    ]
)


def snippets(text, language="python"):
    """What stands in fences of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def links(text):
    """Targets of links and pictures; what only looks like one in code is left out."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    return re.findall(r"\]\(([^()\s]+)\)", prose) + re.findall(r"<img[^>]*src=\"([^\"]+)\"", prose)


def anchors(text):
    """The names that headings get, as GitHub gives them; a second one of a name ends in -1."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = {}
    for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
    return {f"{name}-{number}" if number else name for name, most in found.items()
            for number in range(most + 1)}  # fmt: skip


def broken(page):
    """Links of a page that lead nowhere."""
    bad = []
    for link in links(page.read_text(encoding="utf-8")):
        if "://" in link:
            bad += [] if re.fullmatch(r"https?://[\w.-]+\.\w+(:\d+)?(/\S*)?", link) else [link]
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        whole = target.exists() and (
            not anchor or anchor in anchors(target.read_text(encoding="utf-8"))
        )
        bad += [] if whole else [link]
    return bad


def sentences():
    """Every text of the source, with … where something is filled in."""
    found = set()
    for folder in ("interp", "analyses", "app"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = node.values
                    found.add("".join(str(one.value) if isinstance(one, ast.Constant) else "…"
                                      for one in parts))  # fmt: skip
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found
