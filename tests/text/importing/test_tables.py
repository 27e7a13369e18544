from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.text.importing.files import converted
from textgen.errors import BadLines, DamagedFile, EndlessField, HoldsNoText, NoSuchColumn
from textgen.limits import Limits
from textgen.text.documents import split_documents

LONG = "A sentence that is much longer than any title."


@pytest.mark.parametrize(
    ("table", "columns", "column", "texts"),
    [
        ("id,Text,note\n1,one,x\n2,two,\n", ("id", "Text", "note"), "Text", ["one", "two"]),
        (f"a,b\nx,{LONG}\ny,{LONG}!\n", ("a", "b"), "b", [LONG, LONG + "!"]),
        (f'"a";"b"\n1;"{LONG};\nstill"\n2;y\n', ("a", "b"), "b", [f"{LONG};\nstill", "y"]),
        (f"1,{LONG}\n2,{LONG}?\n", ("1", "2"), "2", [LONG, LONG + "?"]),
        (f"sep=;\na;text\n1;{LONG}\n", ("a", "text"), "text", [LONG]),
        (f"{LONG}\n", ("1",), "1", [LONG]),
        ('text\n"a ""quoted"" word"\n', ("text",), "text", ['a "quoted" word']),
        ('text,n\n"first\n\n \nsecond\n",1\n"  ",2\nthird,3\n', ("text", "n"), "text", ["first\nsecond", "third"]),
        ("text,n\none,1\ntoo short\n\n,2\nlong,3,4,5\n", ("text", "n"), "text", ["one", "too short", "long"]),
        ("标题,正文\n一,很长的一段文字\n", ("标题", "正文"), "正文", ["很长的一段文字"]),
    ],
)
def test_rows_of_the_column_with_the_text_are_documents(
    tmp_path: Path, table: str, columns: tuple[str, ...], column: str, texts: list[str]
) -> None:
    found = converted(tmp_path, "a.csv", table)
    assert (found.record.columns, found.record.column) == (columns, column)
    assert found.text == "\n\n".join(texts) + "\n"
    assert found.record.documents == len(texts)
    assert [segment.text for segment in split_documents([found.text], "blank-line")] == texts


def test_another_column_may_be_named(tmp_path: Path) -> None:
    table = f"title,text\nOne,{LONG}\nTwo,{LONG}\n"
    assert converted(tmp_path, "a.csv", table, column="Title").text == "One\n\nTwo\n"
    with pytest.raises(NoSuchColumn, match=r"a\.csv has no column “author”; there is: title, text\.") as caught:
        converted(tmp_path, "a.csv", table, column="author")
    assert caught.value.columns == ("title", "text")


def test_tables_with_tabs_may_quote_or_not(tmp_path: Path) -> None:
    plain = 'id\ttext\n1\t"Whose is it?" she said\n2\t"unclosed\n3\t5" wide\n'
    assert converted(tmp_path, "a.tsv", plain).text == '"Whose is it?" she said\n\n"unclosed\n\n5" wide\n'
    quoted = 'id\ttext\n1\t"two\nlines"\n2\tb\n'
    assert converted(tmp_path, "a.tsv", quoted).text == "two\nlines\n\nb\n"


def test_a_quote_that_never_ends_is_said_with_its_line(tmp_path: Path) -> None:
    table = "id,text\n1,a\n" + '2,"' + "b\n3,c\n" * 50
    with pytest.raises(EndlessField, match=r"a\.csv: a field of the row in line 3 has no end"):
        converted(tmp_path, "a.csv", table)
    with pytest.raises(EndlessField, match=r"line 2 has no end within 1,000 characters"):
        converted(tmp_path, "a.csv", f"id,text\n1,{'x' * 2000}\n2,c\n", limits=Limits(max_import_field_chars=1000))


def test_huge_fields_are_text_like_others(tmp_path: Path) -> None:
    story = "word " * 1_000_000
    assert converted(tmp_path, "a.csv", f'id,text\n1,"{story}"\n2,b\n').text == f"{story}\n\nb\n"


def test_equal_rows_are_counted(tmp_path: Path) -> None:
    record = converted(tmp_path, "a.csv", "text,n\na,1\nb,2\na,3\na,4\n").record
    assert (record.documents, record.duplicates, record.characters) == (4, 2, 4)


class TestJsonLines:
    def test_strings_of_one_key_are_documents(self, tmp_path: Path) -> None:
        rows = [
            {"id": "a", "content": "one\n\nstill one", "n": 1},
            {"content": "two\ud83d\ude00\ud800"},
            {"id": "c", "content": None},
            {"content": " "},
        ]
        found = converted(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
        assert found.text == "one\nstill one\n\ntwo😀\ufffd\n"
        assert (found.record.columns, found.record.column) == (("id", "content"), "content")
        assert found.record.problem is None

    def test_lines_may_be_strings(self, tmp_path: Path) -> None:
        found = converted(tmp_path, "a.jsonl", '"one"\n"two"\n')
        assert (found.text, found.record.columns, found.record.column) == ("one\n\ntwo\n", (), None)

    def test_bad_lines_are_left_out_and_counted(self, tmp_path: Path) -> None:
        bad = ["{", "[" * 100_000, '{"text": "cut of']
        good = ['{"text": "good"}', "", '{"text": "better"}', "[1]", '{"text": "best"}']
        found = converted(tmp_path, "a.jsonl", "\n".join(good[:2] + bad + good[2:]))
        assert found.text == "good\n\nbetter\n\nbest\n"
        assert isinstance(found.record.problem, BadLines)
        assert str(found.record.problem) == (
            "a.jsonl: lines that are no JSON were left out: 3, the first of them line 3."
        )
        assert found.record.usable

    def test_what_is_no_json_at_all_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DamagedFile, match=r"a\.jsonl is damaged, or no JSONL file"):
            converted(tmp_path, "a.jsonl", "once\nupon\na time\n")

    def test_a_key_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NoSuchColumn, match="there is: text"):
            converted(tmp_path, "a.jsonl", '{"text": "a"}\n', column="body")
        with pytest.raises(HoldsNoText):
            converted(tmp_path, "a.jsonl", '{"n": 1}\n')
