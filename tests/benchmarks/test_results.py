"""The parts of the results' script that decide what the page says."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from benchmarks.results.claims import CLAIMS, Claim
from benchmarks.results.report import END, MARK, Line, lines_of, spread, standard_error, table, verdict, write
from benchmarks.results.rows import ROWS
from benchmarks.results.run import BASE, EXPERTS, Evaluation, Scores, digest_of, pack, unpack


def made(row: str, hits: dict[str, list[bool]], sample: int = 0, **more: object) -> Evaluation:
    """One merge of two tasks of two rows."""
    facts = {"number": None, "split": "test", "seconds": 1.0, **more}
    return Evaluation(digest_of(row, sample, facts), "lora", row, sample=sample, hits=hits, **facts)  # type: ignore[arg-type]


def scores() -> list[Evaluation]:
    """Experts right in all and in half of the rows; an average right in half and in half."""
    half, none = [True, False], [False, False]
    return [
        made(EXPERTS, {"a": [True, True], "b": half}),
        made(BASE, {"a": none, "b": none, "fortunes": half}),
        made("average", {"a": half, "b": half, "fortunes": none}),
        made("average", {"a": half, "b": half}, split="validation", number=0.5),
        made("Fisher", {"a": [True, True], "b": half, "fortunes": half}, sample=1),
        made("Fisher", {"a": half, "b": none, "fortunes": none}, sample=2, seconds=3.0),
    ]


def test_flags_survive_being_written() -> None:
    """Zeros in front are kept, and a count that does not fit is refused."""
    for flags in ([], [False, False, True], [True] * 9):
        assert unpack(pack(flags)) == flags
    with pytest.raises(ValueError, match="expected 4 flags, found 3"):
        unpack("4:9")


def test_lines_are_shares_of_the_experts() -> None:
    """The average is right in half of task a, where its expert is in all, and as good as its expert in b."""
    lines = lines_of({each.digest: each for each in scores()})
    assert list(lines) == [BASE, EXPERTS, "average", "Fisher"]
    assert (lines["average"].means, lines["average"].shares, lines["average"].unseen) == ((50.0,), (75.0,), (0.0,))
    assert lines["Fisher"].shares == (100.0, 25.0)
    assert lines["Fisher"].seconds == 3.0
    assert "| Fisher |  | 62.5 (25.0 to 100.0) | 50.0 (25.0 to 75.0) | 25.0 (0.0 to 50.0) | 2 | 3.0 |" in table(lines)
    assert lines_of({}) == {}


def line(name: str, right: tuple[float, ...]) -> Line:
    """A line of one task, by what each of its rows adds."""
    return Line(name, (1.0,), (sum(right) / len(right),), (), (None,), 0.0, (right,))


def test_verdicts() -> None:
    """Rows are paired: 100 rows of which one alone differs differ by 1 point, with a standard error of 1 (0.99^.5)."""
    x, y, z = line("x", (100.0,) * 100), line("y", (100.0,) * 99 + (0.0,)), line("z", (100.0,) * 50 + (0.0,) * 50)
    lines = {each.name: each for each in (x, y, z)}
    assert spread([80.0]) == "80.0"
    assert standard_error(x, y, "shares") == pytest.approx(0.99**0.5)
    assert standard_error(x, x, "shares") == 0
    assert verdict(Claim("S", "t", "x", "y"), lines) == "| S | t | 100.0 | 99.0 | +1.0 ± 1.0 | within noise |"
    assert verdict(Claim("S", "t", "x", "z"), lines) == "| S | t | 100.0 | 50.0 | +50.0 ± 5.0 | **held** |"
    assert "-50.0 ± 5.0 | **did not hold**" in (verdict(Claim("S", "t", "z", "x"), lines) or "")
    assert verdict(Claim("S", "t", "x", "none"), lines) is None
    assert verdict(Claim("S", "t", "x", "y", "unseen"), lines) is None


def test_claims_speak_of_rows_there_are() -> None:
    """A row that is renamed must not silence a claim."""
    assert {name for claim in CLAIMS for name in (claim.better, claim.than)} <= {row.name for row in ROWS}


def test_the_page_keeps_its_words(tmp_path: Path) -> None:
    """Only what stands between the marks is written; a line of scores that was cut off is passed over.

    Fisher less the average: (0, 50) by row of task a, (-100, 0) of b; ((625 + 2500) / 2)^.5 / 2 is 19.8.
    """
    kept = Scores(tmp_path / "lora.jsonl")
    for each in scores():
        kept.add(each)
    with kept.file.open("a") as file:
        file.write(json.dumps({"digest": "x"})[:-1])
    page = tmp_path / "results.md"
    page.write_text(f"before\n{MARK}\nold\n{END}\nafter\n")
    write(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "## Six LoRA adapters" in text
    assert "| Fisher | better than the average | 62.5 (25.0 to 100.0) | 75.0 | -12.5 ± 19.8 | within noise |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="expected the marks"):
        write(tmp_path, page)
