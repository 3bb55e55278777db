"""The pictures of the pages: what they show is what is printed, and it can be read on GitHub."""

import re

import pytest
from PIL import Image

from projects import ROOT
from tools import draw_pages

SHOWN = sorted(
    {
        ROOT / "docs" / "pictures" / name
        for page in (ROOT / "README.md", ROOT / "docs" / "tools.md")
        for name in re.findall(r"!\[.*?\]\(.*?pictures/(.*?)\)", page.read_text())
    }
)


def test_all_pictures_are_shown():
    assert sorted((ROOT / "docs" / "pictures").glob("*")) == SHOWN


@pytest.mark.parametrize("file", SHOWN, ids=lambda file: file.name)
def test_a_picture_can_be_read_where_a_page_is_830_pixels_wide(file):
    """It has two pixels for each of a window that is hardly wider."""
    with Image.open(file) as picture:
        assert 2 * 830 <= picture.width <= 2 * 1000
    for text in ((ROOT / "README.md").read_text(), (ROOT / "docs" / "tools.md").read_text()):
        in_tables = [line for line in text.splitlines() if line.startswith("|")]
        assert not any(f"{file.name})" in line for line in in_tables)  # half as wide there


def test_the_terminal_shows_what_is_printed(tmp_path, monkeypatch):
    said = []

    def typed(project, *words):
        said.append(" ".join(words))
        return f"run folder: {project}/saved\n1 < 2 & 3\n"

    monkeypatch.setattr(draw_pages, "typed", typed)
    page = draw_pages.terminal(tmp_path)
    assert f"<b>$ python {said[0]}</b>" in page and said[0].startswith("train.py -c config.json")
    assert "1 &lt; 2 &amp; 3" in page and str(tmp_path) not in page
