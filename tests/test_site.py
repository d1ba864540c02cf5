"""What is made of docs/ for the site, and what is found wrong with a site before anybody reads it."""

from pathlib import Path

import pytest

from tests.environments import ROOT
from tests.site import SiteError, check, stage

CONFIGURATION = '[project]\nnav = [{"Home" = "index.md"}, {"More" = [{"A" = "a.md"}, {"E" = "examples.md"}'
REST = ', {"C" = "contributing.md"}, {"L" = "changelog.md"}]}]\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small one, of which everything is well."""
    root = tmp_path / "repository"
    files = {
        "docs/zensical.toml": CONFIGURATION + REST,
        "docs/index.md": "# Home\n[a](a.md#part), [log](../CHANGELOG.md), [two](../examples/two.py)\n",
        "docs/a.md": "# A\n## Part\n```text\n[not a](../link.md)\n```\n![picture](picture.svg) [x](https://host.example)\n",
        "docs/picture.svg": "<svg/>",
        "examples/two.py": "print(2)\n",
        "CHANGELOG.md": "# Changes\n[a](docs/a.md#part)\n",
        "CONTRIBUTING.md": "# Contributing\n[license](LICENSE) [readme](README.md)\n",
        "LICENSE": "Do.\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


def test_links_out_of_the_docs_lead_to_pages_of_the_site(repository: Path, tmp_path: Path) -> None:
    stage(repository, tmp_path / "site")
    pages = tmp_path / "site" / "pages"
    home = pages.joinpath("index.md").read_text("utf-8")
    assert home == "# Home\n[a](a.md#part), [log](changelog.md), [two](examples.md#twopy)\n"
    assert pages.joinpath("a.md").read_text("utf-8") == repository.joinpath("docs/a.md").read_text("utf-8")
    assert pages.joinpath("changelog.md").read_text("utf-8") == "# Changes\n[a](a.md#part)\n"
    assert "[license](license.txt) [readme](index.md)" in pages.joinpath("contributing.md").read_text("utf-8")
    assert "## two.py\n\n```python\nprint(2)\n```" in pages.joinpath("examples.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("docs/a.md", "[b](b.md)", "docs/a.md: b.md is not on the site"),
        ("docs/a.md", "[b](../smartroute/router.py)", "docs/a.md: ../smartroute/router.py is not on the site"),
        ("docs/b.md", "# B", "b.md: not in the navigation (docs/zensical.toml)"),
        ("docs/zensical.toml", CONFIGURATION + ', {"B" = "b.md"}' + REST, "b.md: in the navigation, but"),
    ],
)
def test_a_page_that_is_left_out_is_found(repository: Path, tmp_path: Path, name: str, text: str, problem: str) -> None:
    repository.joinpath(name).write_text(text, "utf-8")
    with pytest.raises(SiteError) as raised:
        stage(repository, tmp_path / "site")
    assert str(raised.value).startswith(problem)
    assert len(raised.value.args) == 1


def test_our_own_pages_are_all_on_the_site(tmp_path: Path) -> None:
    stage(ROOT, tmp_path / "site")


@pytest.fixture
def html(tmp_path: Path) -> Path:
    """A built site of which everything is well."""
    folder = tmp_path / "html"
    folder.joinpath("sub").mkdir(parents=True)
    folder.joinpath("index.html").write_text(
        '<link rel="stylesheet" href="a.css"><a href="sub/b.html#part">b</a><a href="https://host.example">out</a>'
        '<a href="#top" id="top">top</a><a href="sub">folder</a><img src="data:image/gif;base64,R0lG">'
    )
    folder.joinpath("sub", "b.html").write_text(
        '<h2 id="part">Part</h2><p>1 - 2 [DONE]\n<code>- a[0][1]</code></p><a href="../index.html">home</a>'
    )
    folder.joinpath("sub", "index.html").write_text("")
    folder.joinpath("a.css").write_text("a { background: url(sub/x.png) }")
    return folder


def test_a_good_site_is_good(html: Path) -> None:
    assert check(html) == 5


@pytest.mark.parametrize(
    ("piece", "problem"),
    [
        ('<a href="sub/c.html">c</a>', "sub/c.html leads nowhere"),
        ('<a href="../outside.html">o</a>', "../outside.html leads nowhere"),
        ('<a href="sub/b.html#gone">b</a>', "sub/b.html#gone: there is no such anchor"),
        ('<a href="#gone">b</a>', "#gone: there is no such anchor"),
        ('<img src="gone.png">', "gone.png leads nowhere"),
        ('<img src="https://host.example/a.png">', "loads https://host.example/a.png"),
        ('<script src="//host.example/a.js"></script>', "loads //host.example/a.js"),
        ('<link rel="preconnect" href="https://host.example">', "loads https://host.example"),
        ('<img srcset="https://host.example/a.png 2x">', "loads https://host.example/a.png"),
        ("<p>Two things:\n- one</p>", "not a paragraph: 'Two things:\\n- one'"),
        ("<p>| a | b |\n|---|---|</p>", "not a paragraph"),
        ("<p>See [there][undefined].</p>", "not a paragraph"),
    ],
)
def test_what_is_wrong_with_a_page_is_found(html: Path, piece: str, problem: str) -> None:
    html.parent.joinpath("outside.html").write_text("")
    page = html / "index.html"
    page.write_text(page.read_text() + piece)
    with pytest.raises(SiteError) as raised:
        check(html)
    assert f"index.html: {problem}" in str(raised.value)
    assert len(raised.value.args) == 1


def test_a_style_sheet_that_loads_from_elsewhere_is_found(html: Path) -> None:
    html.joinpath("a.css").write_text('@import "https://host.example/font.css"')
    with pytest.raises(SiteError, match=r"a\.css: @import"):
        check(html)
