from __future__ import annotations

from pathlib import Path

import pytest

from tests.text.importing.files import converted, docx, epub, paragraph, pdf
from tests.text.samples import CHINESE, ENGLISH, JAPANESE, RUSSIAN
from textgen.errors import EncryptedFile, HoldsNoText, PicturesOfText


@pytest.mark.parametrize(
    "text", ["one\n\ntwo\n", "no line end", "a\r\nb\rc\n", "\n\n  kept  \n\n", "שלום 👩‍🚀 مرحبا\n"]
)
def test_plain_text_stays_as_it_is(tmp_path: Path, text: str) -> None:
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert converted(tmp_path, "a.txt", text).text == expected.rstrip("\n") + "\n" * max(
        1, len(expected) - len(expected.rstrip("\n"))
    )


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "gb18030"),
        (RUSSIAN.translate(dict.fromkeys(map(ord, "«»—"), "-")), "koi8_r"),
        (JAPANESE, "cp932"),
        (ENGLISH, "utf-16"),
        (ENGLISH, "utf-16-le"),
        (ENGLISH, "utf-32"),
    ],
)
def test_encodings_are_found_or_named(tmp_path: Path, text: str, encoding: str) -> None:
    found = converted(tmp_path, "a.txt", text.encode(encoding))
    assert found.text == text
    assert found.record.encoding is not None
    assert converted(tmp_path, "a.txt", text.encode(encoding), encoding=encoding).text == text


def test_nul_in_text_is_left_out(tmp_path: Path) -> None:
    assert converted(tmp_path, "a.txt", b"a\0b\0\n", encoding="utf-8").text == "ab\n"


HTML = {
    "<p>One\n  two</p><p>Three": "One two\n\nThree\n",
    "<div>a</div><div>b</div>c": "a\nb\nc\n",
    "<div><div><p>a</p></div></div><p>b": "a\n\nb\n",
    "x<br>y<br/>z": "x\ny\nz\n",
    "<p>a<br><br>b": "a\n\nb\n",
    "<ul><li>a<li>b</ul>c": "a\nb\n\nc\n",
    "<pre>  a\n    b\n</pre>c": "  a\n    b\n\nc\n",
    "<table><tr><td>a</td> <td>b</td></tr><tr><td>c<td>d</table>": "a\tb\nc\td\n",
    "a<script>x < y</script>b<style>p{}</style><!-- no -->c": "abc\n",
    "<title>no</title><h1>Yes</h1>text": "Yes\n\ntext\n",
    "&lt;b&gt; &amp; &eacute; &#x4e2d; &nosuch; &": "<b> & é 中 &nosuch; &\n",
    "<p>字字\n字字</p><p>字\nabc": "字字字字\n\n字 abc\n",
    "<ruby>漢<rt>かん</rt>字<rp>(</rp><rt>じ</ruby>だ": "漢字だ\n",
    "ge\u00adheim <b>fett</b>, <i>kursiv</i>": "geheim fett, kursiv\n",
    "a < b and 1<2": "a < b and 1<2\n",
    "<svg><title>no</title><svg></svg>no</svg>yes": "yes\n",
    "<p>a<p/><p>b</p>": "a\n\nb\n",
    "</p></div>stray</b>": "stray\n",
    "a <span> b</span> <span>c </span>d": "a b c d\n",
}


@pytest.mark.parametrize("page", HTML, ids=repr)
def test_html_becomes_what_a_reader_sees(tmp_path: Path, page: str) -> None:
    assert converted(tmp_path, "a.html", f"<html>{page}").text == HTML[page]


def test_deep_and_long_html_is_no_trouble(tmp_path: Path) -> None:
    deep = "<div>" * 50_000 + "deep" + "</div>" * 50_000
    assert converted(tmp_path, "a.html", "<html>" + deep).text == "deep\n"


@pytest.mark.parametrize(
    "declared", ['<meta charset="gb2312">', '<meta http-equiv=x content="text/html; charset=gbk">']
)
def test_a_page_declares_its_encoding(tmp_path: Path, declared: str) -> None:
    page = f"<html><head>{declared}</head><p>{CHINESE[:9]}"
    found = converted(tmp_path, "a.html", page.encode("gb18030"))
    assert found.text == CHINESE[:9] + "\n"
    assert (found.record.encoding, found.record.guessed) == ("gb18030", False)


def test_a_page_that_declares_the_wrong_encoding_is_read_all_the_same(tmp_path: Path) -> None:
    page = f'<html><meta charset="ascii"><p>{CHINESE}'.encode()
    assert CHINESE[:20] in converted(tmp_path, "a.html", page.replace(b"ascii", b"big5 ")).text


MARKDOWN = {
    "# Title\n\nSome *bold* [link](http://x) text\nsecond line\n": "Title\n\nSome bold link text\nsecond line\n",
    "---\ntitle: x\n---\n\nText\n": "Text\n",
    "a\n\n---\n\nb\n": "a\n\nb\n",
    "- one\n- two\n\n> said\n": "one\ntwo\n\nsaid\n",
    "```\ncode  here\n```\n": "code  here\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n": "a\tb\n1\t2\n",
    "<b>html</b> &amp; \\*star\\*\n": "html & *star*\n",
}


@pytest.mark.parametrize("text", MARKDOWN, ids=repr)
def test_markdown_loses_its_marks(tmp_path: Path, text: str) -> None:
    assert converted(tmp_path, "a.md", text).text == MARKDOWN[text]


def test_long_markdown_is_parsed_in_passages(tmp_path: Path) -> None:
    part = f"Some *text* of {'a' * 9000} paragraph.\n\n```\n\n*code*\n\n```\n\n"
    text = converted(tmp_path, "a.md", part * 250).text
    assert text.count("Some text of a") == text.count("*code*") == 250


def test_subtitles_say_only_what_is_said(tmp_path: Path) -> None:
    text = (
        "1\n00:00:01,000 --> 00:00:02,500 X1:1\nHello <i>you</i>\nthere\n\n\n2\n00:00:03,000 --> 00:00:04,000\n"
        "{\\an8}- Yes.\n- 1984\n\n3\n00:00:05,000 --> 00:00:06,000\n42\n\n"
        "4\n00:00:07,000 --> 00:00:08,000\n你好\n世界\n"
    )
    assert (
        converted(tmp_path, "a.srt", text.replace("\n", "\r\n")).text
        == "Hello you there\n- Yes.\n- 1984\n42\n你好世界\n"
    )


class TestDocx:
    def test_paragraphs_runs_and_breaks(self, tmp_path: Path) -> None:
        body = (
            paragraph("Once ", "upon")
            + "<w:p/>"
            + "<w:p><w:r><w:t>a</w:t><w:br/><w:t>b</w:t><w:tab/><w:t>c</w:t></w:r></w:p>"
            + "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
            + f"<w:sdt><w:sdtContent>{paragraph('in a control')}</w:sdtContent></w:sdt>"
            + "<w:p><w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink></w:p>"
            + "<w:p><w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr><w:r><w:t>end</w:t></w:r></w:p>"
        )
        found = converted(tmp_path, "a.docx", docx(body))
        assert found.text == "Once upon\n\na\nb\tc\n\nnew\n\nin a control\n\nlink\n\nend\n"
        assert (found.record.kind, found.record.encoding, found.record.documents) == ("docx", None, 1)

    def test_tables_notes_and_text_boxes(self, tmp_path: Path) -> None:
        row = "<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in "ab") + "</w:tr>"
        box = (
            f"<w:p><w:r><w:t>around</w:t><w:pict><w:txbxContent>{paragraph('box')}</w:txbxContent></w:pict></w:r></w:p>"
        )
        notes = (
            f'<w:footnote w:type="separator">{paragraph("no")}</w:footnote><w:footnote>{paragraph("note")}</w:footnote>'
        )
        found = converted(tmp_path, "a.docx", docx(f"<w:tbl>{row}{row}</w:tbl>{box}", footnotes=notes))
        assert found.text == "a\tb\na\tb\n\nbox\n\naround\n\nnote\n"

    def test_the_main_part_may_have_another_name(self, tmp_path: Path) -> None:
        assert converted(tmp_path, "a.docx", docx(paragraph("x"), main="word/document2.xml")).text == "x\n"

    def test_without_text(self, tmp_path: Path) -> None:
        with pytest.raises(HoldsNoText, match=r"a\.docx holds no text"):
            converted(tmp_path, "a.docx", docx("<w:p/>"))


class TestEpub:
    def test_chapters_come_in_the_order_of_the_spine(self, tmp_path: Path) -> None:
        pages = {
            "two.xhtml": "<html><head><title/></head><body><p>Two</p></body></html>",
            "one.xhtml": '<?xml version="1.0"?><html><body><h1>One</h1><p>Text</p></body></html>',
            "nav.xhtml": "<html><body>contents</body></html>",
            "unlisted.xhtml": "<html>no</html>",
        }
        book = epub(pages, spine=["nav.xhtml", "one.xhtml", "two.xhtml"])
        assert converted(tmp_path, "a.epub", book).text == "One\n\nText\n\nTwo\n"

    def test_encodings_of_chapters(self, tmp_path: Path) -> None:
        declared = '<?xml version="1.0" encoding="windows-1251"?><p>Привет'.encode("cp1251")
        book = epub({"a": "<p>é".encode("utf-16"), "b": declared, "c": "<p>中".encode()})
        assert converted(tmp_path, "a.epub", book).text == "é\n\nПривет\n\n中\n"

    def test_a_book_for_one_device_only(self, tmp_path: Path) -> None:
        def locked(part: str) -> str:
            return f'<encryption><CipherData><CipherReference URI="OEBPS/{part}"/></CipherData></encryption>'

        with pytest.raises(EncryptedFile, match=r"a\.epub is encrypted"):
            converted(tmp_path, "a.epub", epub({"a": "<p>x"}, **{"META-INF__encryption_xml": locked("text/a")}))
        font = epub({"a": "<p>x"}, **{"META-INF__encryption_xml": locked("font.otf")})
        assert converted(tmp_path, "a.epub", font).text == "x\n"


class TestPdf:
    def test_wrapped_lines_are_joined_and_paragraphs_kept(self, tmp_path: Path) -> None:
        first = [
            "The miller counted the stones that lay along the ri-",
            "ver, and the ninth of them was warm in her hand,",
            "as if it had been asked.",
        ]
        second = ["In the evening the wind turned and the mill wheel", "went the other way round."]
        lines = [(72.0, 700.0 - 14 * number, text) for number, text in enumerate(first)]
        lines += [(72.0, 600.0 - 14 * number, text) for number, text in enumerate(second)]
        found = converted(tmp_path, "a.pdf", pdf([lines, [(72.0, 700.0, "Next page")]]))
        assert found.text == (
            "The miller counted the stones that lay along the river, and the ninth of them was warm in her hand, "
            "as if it had been asked.\n\n"
            "In the evening the wind turned and the mill wheel went the other way round.\n\nNext page\n"
        )

    def test_lines_of_verse_stay_lines(self, tmp_path: Path) -> None:
        verse = ["The stone was warm, the river cold and wide,", "and so", "we slept", "until the heron came."]
        lines = [(72.0, 700.0 - 14 * number, text) for number, text in enumerate(verse)]
        assert converted(tmp_path, "a.pdf", pdf([lines])).text == "\n".join(verse) + "\n"

    def test_what_every_page_repeats_is_left_out(self, tmp_path: Path) -> None:
        pages = []
        for number in range(1, 6):
            header = "A Book" if number % 2 else "Chapter One"
            body = [(72.0, 600.0 - 14 * line, f"Line {line} of page {number}") for line in range(3)]
            pages.append([(72.0, 760.0, header), (450.0, 760.0, f"{number}"), *body, (280.0, 40.0, f"- {number} -")])
        text = converted(tmp_path, "a.pdf", pdf(pages)).text
        assert (text.count("A Book"), text.count("Chapter One")) == (1, 1)
        assert (
            text.replace("A Book\n\n", "").replace("Chapter One\n\n", "")
            == "\n\n".join("\n".join(f"Line {line} of page {number}" for line in range(3)) for number in range(1, 6))
            + "\n"
        )

    def test_scanned_pages_hold_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(PicturesOfText, match=r"a\.pdf holds no text; its pages are pictures"):
            converted(tmp_path, "a.pdf", pdf([[], []]))

    def test_a_password_is_needed(self, tmp_path: Path) -> None:
        words = "<" + "00" * 32 + ">"
        locked = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O {words} /U {words} /P -4 >> /ID [{words} {words}]"
        with pytest.raises(EncryptedFile, match=r"a\.pdf is encrypted"):
            converted(tmp_path, "a.pdf", pdf([[(72.0, 700.0, "secret")]], trailer=locked))
