"""The documentation site: docs/ and what its pages link to beside it, built by Zensical and checked.

    make docs    # writes .site/html; it needs no server: open index.html

The pages are written to be read in the repository too, so their links may lead out of docs/. The generator knows one
folder only: it gets a copy in which such links lead to pages made of the changelog, the examples and so on. Its strict
mode knows the links between pages; what a browser would make of the result is checked here, in the HTML itself.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath, relpath
from urllib.parse import unquote, urlsplit

__all__ = ["SiteError", "build", "check", "main", "stage"]

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = "zensical.toml"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^ *(```+|~~~+)")
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.txt",
    "examples": "examples.md",
}
"""What pages may link to outside of docs/, and what it is on the site."""
NOT_MARKDOWN = re.compile(r"^(?:[-*] |\d+\. |\|.*\|$|```|#+ )|\][\[(]", re.MULTILINE)
"""What is left in a paragraph that was meant to be a list, a table, a fence, a heading or a link."""
COLOURS = re.compile(r"\x1b\[[\d;]*m")
ELSEWHERE = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^"')\s]+""")


class SiteError(Exception):
    """The site cannot be built, or not be published. The arguments are the problems, a line each."""

    def __str__(self) -> str:
        return "\n".join(self.args)


def stage(root: Path, site: Path) -> None:
    """Copy the pages and the configuration of the repository at `root` to the folder `site`, which is emptied first.

    Raises:
        SiteError: a link leads to nothing that is on the site, or the navigation and the pages differ.
    """
    shutil.rmtree(site, ignore_errors=True)
    pages = site / "pages"
    pages.mkdir(parents=True)
    examples = sorted((root / "examples").glob("*.py"))
    beside = BESIDE | {f"examples/{each.name}": f"examples.md#{each.stem}py" for each in examples}
    problems: list[str] = []
    for source in sorted((root / "docs").rglob("*")):
        name = source.relative_to(root / "docs").as_posix()
        if source.is_dir() or name == CONFIGURATION:
            continue
        target = pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(_staged(source, f"docs/{name}", name, beside, root, problems), "utf-8")
        else:
            shutil.copyfile(source, target)
    for source_name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        name = beside[source_name]
        text = _staged(root / source_name, source_name, name, beside, root, problems)
        (pages / name).write_text(text, "utf-8")
    shutil.copyfile(root / "LICENSE", pages / "license.txt")
    (pages / "examples.md").write_text(_examples(examples), "utf-8")
    shutil.copyfile(root / "docs" / CONFIGURATION, site / CONFIGURATION)

    listed = set(_listed(tomllib.loads((site / CONFIGURATION).read_text("utf-8"))["project"]["nav"]))
    there = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    problems += [f"{name}: not in the navigation (docs/{CONFIGURATION})" for name in sorted(there - listed)]
    problems += [f"{name}: in the navigation, but there is no such page" for name in sorted(listed - there)]
    if problems:
        raise SiteError(*problems)


def _staged(source: Path, here: str, name: str, beside: dict[str, str], root: Path, problems: list[str]) -> str:
    """A page's text with links as they must be on the site. Paths: `here` in the repository, `name` on the site."""

    def moved(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if urlsplit(target).scheme:
            return match[0]
        path = normpath(f"{here}/../{target}")
        if path.startswith("docs/") and (root / path).is_file():
            path = path.removeprefix("docs/")
        elif path in beside:
            path = beside[path]
        else:
            problems.append(f"{here}: {target} is not on the site")
            return match[0]
        return relpath(path, normpath(f"{name}/..")) + anchor

    lines: list[str] = []
    fence = ""
    for line in source.read_text("utf-8").splitlines(keepends=True):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1] == fence:
            fence = ""
        lines.append(line if fence or mark else LINK.sub(moved, line))
    return "".join(lines)


def _examples(scripts: list[Path]) -> str:
    shown = (f"## {each.name}\n\n```python\n{each.read_text('utf-8')}```\n" for each in scripts)
    return "\n".join(["# Examples\n", *shown])


def _listed(entries: object) -> Iterator[str]:
    """The pages of a navigation, which is made of lists and of tables with one title each."""
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, list):
        for entry in entries:
            yield from _listed(entry)
    elif isinstance(entries, dict):
        for entry in entries.values():
            yield from _listed(entry)


class _Page(HTMLParser):
    """What a built page has to be looked at for."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.paragraphs: list[str] = []
        self._open: list[str] | None = None
        self._code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)
            elif tag == "a" and name == "href":
                self.links.append(value)
            elif name in ("href", "src", "data", "poster"):
                self.loaded.append(value)
            elif name == "srcset":
                self.loaded += [part.split()[0] for part in value.split(",")]
        if tag == "p":
            self._open = []
        self._code = tag == "code"

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append("..." if self._code else data)

    def handle_endtag(self, tag: str) -> None:
        self._code = False
        if tag == "p" and self._open is not None:
            self.paragraphs.append("".join(self._open))
            self._open = None


def check(html: Path) -> int:
    """Look at the built site in the folder `html` as a browser would; return how many links were followed.

    Raises:
        SiteError: a link or an anchor leads nowhere, something is loaded from another host, or a page's Markdown was
            not understood.
    """
    pages: dict[Path, _Page] = {}
    for path in sorted(html.rglob("*.html")):
        pages[path] = page = _Page()
        page.feed(path.read_text("utf-8"))
    problems: list[str] = []
    followed = 0
    for path, page in pages.items():
        where = path.relative_to(html).as_posix()
        problems += [f"{where}: not a paragraph: {text!r}" for text in page.paragraphs if NOT_MARKDOWN.search(text)]
        for url in page.loaded:
            parts = urlsplit(url)
            if parts.netloc or parts.scheme not in ("", "data"):
                problems.append(f"{where}: loads {url}")
        for url in page.links + page.loaded:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            followed += 1
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or html not in target.parents:
                problems.append(f"{where}: {url} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{where}: {url}: there is no such anchor")
    for path in sorted(html.rglob("*.css")):
        problems += [f"{path.relative_to(html)}: {found}" for found in ELSEWHERE.findall(path.read_text("utf-8"))]
    if problems:
        raise SiteError(*problems)
    return followed


def build(site: Path) -> None:
    """Turn the copy in `site` into HTML.

    Raises:
        SiteError: what the generator has to complain of.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", f"--config-file={site / CONFIGURATION}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    said = COLOURS.sub("", done.stdout + done.stderr)
    if done.returncode or "warning" in said.lower():
        raise SiteError(said.partition("Traceback")[0] if " found\n" in said else said)
    html = site / "html"
    html.joinpath("404.html").unlink()  # for a server, which there need not be: its links are absolute
    index = html.joinpath("search.json").read_text("utf-8")
    html.joinpath("search.js").write_text(f"var __index = {index}", "utf-8")  # a page on the disk cannot read the other


def main() -> None:
    """Build .site/html and check it; end with 1 if anything is wrong with it."""
    site = ROOT / ".site"
    try:
        stage(ROOT, site)
        build(site)
        followed = check(site / "html")
    except SiteError as error:
        sys.exit(str(error))
    print(f"{site / 'html' / 'index.html'}: {followed} links lead somewhere")


if __name__ == "__main__":
    main()
