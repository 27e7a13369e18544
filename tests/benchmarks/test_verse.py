from __future__ import annotations

import json
from pathlib import Path

import pytest

from textgen.benchmarks import verse

FIVE = "静夜\n某人\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
SEVEN = "早发\n某人\n朝辞白帝彩云间，千里江陵一日还。\n两岸猿声啼不住，轻舟已过万重山。"
BROKEN = "断\n某人\n床前明月光，疑是地上霜。\n举头望月，低头思故乡。"
FREE = "词\n某人\n平林漠漠烟如织。寒山一带伤心碧。"


def test_lines_are_what_stands_between_punctuation_below_title_and_author() -> None:
    assert verse.lines_of(FIVE) == ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"]
    assert verse.lines_of("题\n人\n") == []


def test_only_pairs_of_several_poems_rhyme() -> None:
    assert verse.rhyming([FIVE]) == frozenset()
    assert verse.rhyming([FIVE, FIVE, SEVEN]) == {("乡", "霜")}


def test_what_keeps_to_its_form_is_counted() -> None:
    rhymes = verse.rhyming([FIVE, FIVE, SEVEN, SEVEN])
    assert verse.judge([FIVE, SEVEN, BROKEN, FREE, "题\n人\n"], rhymes) == verse.Form(5, 4, 3, 3, 3)
    assert verse.judge([SEVEN.replace("山。", "水。")], rhymes) == verse.Form(1, 1, 1, 1, 0)


def test_chance_is_what_mixed_rhymes_give() -> None:
    assert verse.chance([FIVE] * 50, verse.rhyming([FIVE, FIVE])) == pytest.approx(0.5, abs=0.15)
    assert verse.chance([FIVE], frozenset()) == 0.0


def test_poems_are_on_one_side_whole(tmp_path: Path) -> None:
    poems = [f"题{number}\n某人\n" + f"山水有清音{number}，\n何必丝与竹。" for number in range(200)]
    (tmp_path / "poems.txt").write_text("\n\n".join(poems), encoding="utf-8")
    trained, heldout = verse.divide([tmp_path / "poems.txt"], 0.2, 1)
    assert sorted(trained + heldout) == sorted(poems)
    assert 10 < len(heldout) < 80


@pytest.mark.slow
def test_its_last_line_holds_the_figures(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "poems.txt").write_text("\n\n".join([FIVE, SEVEN, BROKEN, FREE] * 5), encoding="utf-8")
    arguments = [str(tmp_path / "poems.txt"), "--checkpoint", str(trained_run), "--samples", "2", "--heldout", "0.5"]
    assert verse.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["poems"] == 2
    assert figures["real_poems"] > 0
