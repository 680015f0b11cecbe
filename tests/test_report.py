"""``marlzoo report``: one file that works in a browser without a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks import data_cards
from marlzoo.benchmarks import report as report_module

import marlzoo
from marlzoo.cli import main
from marlzoo.data.card import Card
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.full_disk import full_disk
from tests.test_analysis import rows_of, written

pytest.importorskip("altair", reason="the extra 'report' is not installed")
pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")
HOSTILE = "</script><img src=x onerror=alert(1)>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        row
        for quality in ("medium", HOSTILE)
        for row in (
            *rows_of("first", [1.0, 2.0, 6.0], 500, quality=quality),
            *rows_of("first", [4.0, 5.0, 9.0], quality=quality),
            *rows_of("second", [10.0, 11.0, 12.0], quality=quality),
        )
    ]
    folder = written(tmp_path_factory.mktemp("run"), [replace(row, machine=HOSTILE) for row in rows])
    (folder / "commands.txt").write_text("marlzoo bench 'a <b>'\n")
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return marlzoo.report(run, out=run / "report.html", title="a <title>").read_text(encoding="utf-8")


def test_text_of_rows_is_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "<img" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "<h1>a &lt;title&gt;</h1>" in page
    assert "<code>marlzoo bench &#x27;a &lt;b&gt;&#x27;</code>" in page


def test_damaged_commands_are_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "commands.txt").write_bytes(b"marlzoo bench a\xf0b\n")
    with pytest.raises(DataError, match=r"commands.txt: no list of commands .* move it away"):
        marlzoo.report(tmp_path / "run", out=tmp_path / "report.html")


def test_data_of_the_charts(page: str) -> None:
    text = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    data = json.loads(text[1])
    assert data["learners"] == ["first", "second"]
    curve = next(c for c in data["curves"] if (c["dataset"], c["learner"]) == ("medium", "first"))
    assert (curve["x"], curve["mean"]) == ([500, 1000], [3.0, 6.0])
    assert curve["low"][0] < 3.0 < curve["high"][0]
    assert {p["learner"]: p["mean"] for p in data["ranks"]} == {"first": 2.0, "second": 1.0}


def test_a_thousand_runs_stay_below_five_megabytes(page: str) -> None:
    """What grows with the runs: three curves of every learner on every dataset, from long files of metrics."""
    updates, cells = 500 * np.arange(1, 201), 334  # of three seeds
    curve = pd.DataFrame({"updates": updates, **dict.fromkeys(("mean", "low", "high"), updates / 7e-3)})
    curves = [curve.assign(dataset=f"quality-{k % 9}", learner=f"a long name {k}") for k in range(cells)]
    packed = report_module._curve(pd.concat(curves))
    assert all(line["x"][-1] == updates[-1] for line in packed)
    assert {len(line["mean"]) for line in packed} == {67}
    assert len(page) + 3 * len(report_module._json(packed)) < 5e6


def test_a_full_disk_leaves_what_was_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "_page", lambda *arguments: "page" * 100)
    with full_disk(tmp_path / "r.html"):
        marlzoo.report(run, out=tmp_path / "r.html")


def test_nothing_is_fetched(page: str) -> None:
    assert "default-src 'none'" in page
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?https?:", own)


def test_datasets_that_are_here_have_cards_and_plots(tmp_path: Path) -> None:
    data = marlzoo.load_dataset("games/t-maze/marlzoo/mix")
    place = {"task": "games/t-maze", "source": "marlzoo", "quality": "mix"}
    rows = rows_of("first", [1.0], data_hash=data.content_hash, **place)
    rows += rows_of("first", [1.0], **{**place, "data_hash": "0" * 64, "quality": "other"})  # not here
    rows += rows_of("first", [1.0], **{**place, "data_hash": "1" * 64})  # another version of what is here
    (found,) = data_cards.described(marlzoo.Results(written(tmp_path, rows)))
    assert found.card.transitions == data.transitions
    for lines, values in ((found.returns, data.returns), (found.lengths, data.lengths)):
        assert sum(line["count"] for line in lines) == data.episodes
        for line in lines[:-1]:
            assert line["count"] == ((values >= line["x"]) & (values < line["x2"])).sum()
    page = marlzoo.report(tmp_path, out=tmp_path / "r.html").read_text(encoding="utf-8")
    text = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    shown = json.loads(text[1])["lengths"]
    assert {line["dataset"] for line in shown} == {found.name}
    assert f"<td>{data.transitions}</td>" in page


SCRIPT = """<script>
addEventListener("securitypolicyviolation", (e) => { document.body.dataset.blocked = e.blockedURI; });
addEventListener("error", (e) => { document.body.dataset.error = e.message; });
addEventListener("unhandledrejection", (e) => { document.body.dataset.error = String(e.reason); });
const report = {};
const board = document.querySelector("#leaderboard table");
const names = () => [...board.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[0].textContent);
const timer = setInterval(async () => {
  if (document.documentElement.dataset.ready !== "yes") return;
  clearInterval(timer);
  report.charts = document.querySelectorAll("#curves svg").length;
  report.bands = document.querySelectorAll("#curves svg .mark-area path").length;
  report.start = names();
  board.tHead.rows[0].cells[1].click();
  report.down = names();
  board.tHead.rows[0].cells[1].click();
  report.up = names();
  const field = document.getElementById("filter");
  field.value = "FIRST";
  field.dispatchEvent(new Event("input"));
  report.filtered = names();
  field.value = "";
  document.querySelector("#learners input").click();
  await update();
  report.hidden = names();
  report.left = document.querySelectorAll("#curves svg .mark-line path").length;
  report.resources = performance.getEntriesByType("resource").length;
  document.getElementById("theme").click();
  await update();
  report.back = getComputedStyle(document.body).backgroundColor;
  report.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.report = JSON.stringify(report);
}, 20);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian's package 'chromium')")
def test_in_a_browser(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page.replace("</body>\n</html>", SCRIPT + "\n</html>"), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--window-size=500,900", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=30000",
        "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "CONSOLE" not in done.stderr
    assert "data-error" not in done.stdout
    assert "data-blocked" not in done.stdout
    found = re.search(r'data-report="([^"]*)"', done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(found[1].replace("&quot;", '"'))
    assert report == {
        "charts": 2,
        "bands": 4,
        "start": ["second", "first"],
        "down": ["first", "second"],
        "up": ["second", "first"],
        "filtered": ["first"],
        "hidden": ["second"],
        "left": 2,
        "resources": 0,
        "back": "rgb(24, 26, 27)",
        "wide": False,
    }


def test_what_cannot_be_reported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"in \.html"):
        marlzoo.report(run, out=tmp_path / "r.pdf")
    with pytest.raises(DataError, match="no results at"):
        marlzoo.report(tmp_path, out=tmp_path / "r.html")
    with pytest.raises(UnknownNameError, match="'thrid'"):
        marlzoo.report(run, out=tmp_path / "r.html", reference="thrid")
    (tmp_path / "rows.csv").write_text("suite,method,updates,mean_return\n")
    assert main(["report", str(run), str(tmp_path), "-o", str(tmp_path / "r.html")]) == 2
    assert "marlzoo results migrate" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


# Sheets and lines by hand -------------------------------------------------------------------------------------


def two_datasets(folder: Path) -> marlzoo.Results:
    """Two learners on two datasets; one run of the second failed, one diverged."""
    timed = {"seconds_per_run": 1800.0}
    rows = rows_of("first", [1.0, 2.0, 6.0], 500, **timed) + rows_of("first", [4.0, 5.0, 9.0], **timed)
    rows += rows_of("second", [10.0, 11.0, 12.0], seconds_per_run=None, device="cuda")
    rows += rows_of("first", [1.0, 2.0, 3.0], quality="expert", **timed)
    rows += rows_of("second", [0.0, 1.0], quality="expert", seconds_per_run=None)
    rows[-2:] = [replace(row, diverged=True) for row in rows[-2:]]
    rows += [replace(row, seed=2, error="broken") for row in rows_of("second", [0.0], quality="expert")]
    return marlzoo.Results(written(folder, rows))


def test_the_leaderboard_has_the_best_first(tmp_path: Path) -> None:
    results = two_datasets(tmp_path)
    (sheet,) = report_module.leaderboard(results)
    assert sheet.header[0] == "learner"
    assert sheet.header[-5:] == ["datasets", "runs", "diverged", "failed", "unfinished"]
    places = {line[0]: line for line in sheet.body}
    assert set(places) == {"first", "second"}
    assert places["first"][-5:] == ["2", "6", "0", "0", "0"]
    assert places["second"][-5:] == ["2", "5", "2", "1", "0"]
    assert "–: not run on all of these datasets, no reference, or a run without a finite" in sheet.notes[0]


def test_the_leaderboard_of_one_winner(tmp_path: Path) -> None:
    rows = rows_of("worse", [1.0, 2.0, 3.0]) + rows_of("better", [7.0, 8.0, 9.0])
    rows += rows_of("central", [1.0], execution="centralized", quality="expert")
    boards = report_module.leaderboard(marlzoo.Results(written(tmp_path, rows)))
    assert [line[0] for board in boards for line in board.body] == ["better", "worse", "central"]
    assert [line[-5:-3] for board in boards for line in board.body] == [["1", "3"], ["1", "3"], ["1", "1"]]


def test_compute_counts_the_last_row_of_each_run(tmp_path: Path) -> None:
    sheet = report_module.compute(two_datasets(tmp_path))
    assert sheet.body[0] == ["first", "6", "6000", "3.00", "1800.0", "cpu"]
    assert sheet.body[1] == ["second", "6", "6000", "–", "–", "cuda, cpu"]
    # Written out of order, by one who resumed from a copy.
    rows = rows_of("first", [1.0], 1000, seconds_per_run=20.0) + rows_of(
        "first", [1.0], 500, seconds_per_run=10.0
    )
    rows += [replace(rows[0], seed=1, seconds_per_run=40.0)]
    sheet = report_module.compute(marlzoo.Results(written(tmp_path / "b", rows)))
    assert sheet.body == [["first", "2", "2000", f"{60 / 3600:.2f}", "30.0", "cpu"]]


def test_provenance_lists_data_by_their_hash_and_settings(tmp_path: Path) -> None:
    rows = rows_of("first", [1.0, 2.0], preset="")
    rows += rows_of("first", [1.0], data_hash="abcdef0123456789", data_transitions=None, config="")
    text = report_module._provenance(marlzoo.Results(written(tmp_path, rows)))
    assert text.count("<td>00012345</td>") == 1
    assert "<td>abcdef012345</td>" in text
    assert "abcdef0123456789" not in text
    assert "<td>defaults</td>" in text
    assert "<td>1000</td>" in text
    assert "<td>–</td>" in text
    assert text.count("&quot;alpha&quot;") == 1
    rows += rows_of("first", [1.0], data_hash="0001234567")  # which begins as another's does
    text = report_module._provenance(marlzoo.Results(written(tmp_path / "more", rows)))
    assert [text.count(f"<td>{digest}</td>") for digest in ("00012345", "0001234567")] == [1, 1]


def test_the_summary_counts_runs_and_rows(tmp_path: Path) -> None:
    text = report_module._summary(two_datasets(tmp_path), "a <b>")
    assert "12 runs of 2 learners on 2 datasets, 15 rows." in text
    assert "<code>a &lt;b&gt;</code>" in text
    one = report_module._summary(marlzoo.Results(written(tmp_path / "one", rows_of("first", [1.0]))), "")
    assert "1 run of 1 learner on 1 dataset, 1 row." in one


def test_curves_keep_their_last_point_and_thin_the_rest() -> None:
    def curve(length: int) -> pd.DataFrame:
        number = np.arange(1.0, length + 1)
        return pd.DataFrame(
            {"dataset": "d", "learner": "l", "updates": number, "mean": number, "low": 0.0, "high": np.nan}
        )

    (line,) = report_module._curve(curve(3))
    assert line == {"dataset": "d", "learner": "l", "x": [1, 2, 3], "mean": [1, 2, 3], "low": [0, 0, 0]}
    (line,) = report_module._curve(curve(250))
    assert line["x"] == list(range(2, 251, 4))
    (line,) = report_module._curve(curve(119))
    assert len(line["x"]) == 119


def test_numbers_of_the_charts(tmp_path: Path) -> None:
    results = two_datasets(tmp_path)
    data = report_module._data(results)
    ranks = {line["learner"]: line for line in data["ranks"]}
    assert [line["mean"] for line in ranks.values()] == [1.5, 1.5]
    assert len({line["scope"] for line in data["ranks"] + data["profiles"]}) == 1
    profile = pd.DataFrame(data["profiles"])
    for _, part in profile.groupby("learner"):
        assert part.sort_values("x")["mean"].is_monotonic_decreasing
        assert part["mean"].between(0, 1).all()
    assert {line["behavior"] for line in data["behavior"]} == {723.5}
    (folder,) = results.folders
    (folder / "metrics").mkdir()
    run = results.named_rows()["run"].iloc[0]
    lines = ["run,updates,value/data_mean,weight/ess", f"{run},1,7.0,0.25"]
    (folder / "metrics" / "a.csv").write_text("\n".join(lines) + "\n")
    data = report_module._data(marlzoo.Results(folder))
    assert [line["mean"] for name in ("values", "weights") for line in data[name]] == [[7.0], [0.25]]


def test_what_cards_say(tmp_path: Path) -> None:
    card = Card(
        task="games/xor", source="me", quality="good", transitions=70, episodes=5, mean_return=2.0, std_return=0.5,
        mean_length=14.0, notes=("one", "two"),
    )  # fmt: skip
    lines = [{"x": 1.0, "x2": 2.0, "count": 3}]
    found = data_cards.Described("d", card, lines, [{"x": 9.0, "x2": 10.0, "count": 5}])
    sheet = report_module._cards([found])
    ((name, by, transitions, episodes, value, length, licensed, made),) = sheet.body
    assert (name, by, transitions, episodes) == ("d", "me good", "70", "5")
    assert (value.split(" ± ")[0], length) == (f"{2.0:.2f}"[: len(value.split(" ± ")[0])], "14.0")
    assert (licensed, made) == ("not stated", "not stated")
    assert sheet.notes == ["d: one", "d: two"]
    histograms = report_module._histograms([found])
    assert [line["x"] for line in histograms["returns"]] == [1.0]
    assert [line["x"] for line in histograms["lengths"]] == [9.0]
    assert histograms["lengths"][0]["dataset"] == "d"


def test_marks_in_scripts_stay_inside_them(tmp_path: Path) -> None:
    results = marlzoo.Results(written(tmp_path, rows_of("first", [1.0])))
    page = report_module._page(results, "title", "", "", "a</script>b")
    assert "a<\\/script>b" in page
    assert report_module._json("</script>") == '"\\u003c/script>"'
    with pytest.raises(ValueError, match="JSON"):
        report_module._json(float("nan"))
