"""The page as a reader meets it: in a real browser, at a telephone's width and at a desk's."""

import json
import re
from pathlib import Path

import pytest

from zoo.report import compare, page

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
WIDTHS = (400, 1600)


class Reader:
    """A browser with one report open."""

    def __init__(self, browser, path: Path, width=1600, scheme="light"):
        self.browser = browser
        for stale in ("browser", "performance"):
            browser.get_log(stale)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(path.as_uri())
        # One frame later the figures, which wait for their size, are drawn.
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")

    def ask(self, script: str, *arguments):
        return self.browser.execute_script(f"return {script}", *arguments)

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requests(self) -> list[str]:
        events = [json.loads(e["message"])["message"] for e in self.browser.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        # The browser's own start page is another document.
        return [p["request"]["url"] for p in sent if p["documentURL"].startswith("file://")]

    def labels(self, table="results-table") -> list[str]:
        rows = f"[...document.querySelectorAll('#{table} tbody tr:not([hidden]) .label')]"
        return [
            text.replace("baseline", "").strip()
            for text in self.ask(f"{rows}.map(c => c.textContent)")
        ]

    def column(self, index: int) -> list[float]:
        rows = "[...document.querySelectorAll('#results-table tbody tr')]"
        return self.ask(f"{rows}.map(r => Number(r.cells[arguments[0]].dataset.sort))", index)


def paths(reader: Reader, figure: str) -> int:
    return len(reader.all(f"{figure} svg path.line"))


@pytest.fixture
def report(sweep, run_folder):
    """Five variants, one failed run, one that left nothing."""
    folder = sweep(models=("gpt2", "rope", "alibi", "xpos", "nope"))
    run_folder(folder / "15", model="t5", status="failed", error="ValueError: " + "x" * 300)
    (folder / "16").mkdir()
    return compare([folder])["html"]


@pytest.fixture
def hundred(sweep):
    """34 variants of three seeds: 102 runs."""
    models = ("gpt2", "rope", "xpos", *(f"scheme{i}" for i in range(31)))
    return compare([sweep(models=models)])["html"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_without_errors_requests_or_sideways_scrolling(browser, report, width, scheme):
    reader = Reader(browser, report, width, scheme)
    assert reader.ask("document.documentElement.scrollWidth") <= width
    assert paths(reader, "#learning") == 5  # the failed run logged nothing
    assert paths(reader, "[data-task='0']") == 5
    for details in reader.all("details"):
        details.find_element("css selector", "summary").click()
    assert reader.ask(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )
    assert reader.ask("document.documentElement.scrollWidth") <= width
    assert reader.console() == []
    assert all(url.startswith(("file://", "data:")) for url in reader.requests())


def test_paper_and_ink_change_places_in_the_dark(browser, report):
    reader = Reader(browser, report, scheme="light")
    brightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
    )
    light = reader.ask(brightness)
    assert Reader(browser, report, scheme="dark").ask(brightness) < 200 < 600 < light
    reader.all("#theme")[0].click()  # auto → light, against the system's wish
    assert reader.ask(brightness) == light


def test_headings_sort_by_click_and_by_keyboard(browser, report):
    reader = Reader(browser, report)
    heading = reader.all("#results-table thead button[data-column='2']")[0]
    state = "document.querySelector('#results-table th[aria-sort]:not([aria-sort=none])').getAttribute('aria-sort')"
    heading.click()
    values = [v for v in reader.column(2) if v]
    assert reader.ask(state) == "ascending" and values == sorted(values) and len(values) == 5
    assert reader.labels()[-2:] == ["t5", "run 16"]  # rows without a value stay last
    heading.send_keys("\ue007")  # Enter
    assert reader.ask(state) == "descending"
    assert [v for v in reader.column(2) if v] == values[::-1]
    assert reader.labels()[-2:] == ["t5", "run 16"]
    speed = reader.all("#results-table thead button[data-first='descending']")[0]
    speed.send_keys(" ")
    assert reader.ask(state) == "descending"  # higher is better: best first
    assert len(reader.all("#results-table th[aria-sort='descending']")) == 1
    reader.all("#results-table thead button[data-column='0']")[0].click()
    assert reader.labels()[:3] == ["alibi", "gpt2", "nope"]


def test_columns_can_be_taken_away_and_brought_back(browser, report):
    reader = Reader(browser, report)
    shown = "[...document.querySelectorAll('#results-table tbody tr')][0].querySelectorAll('td:not([hidden])').length"
    assert reader.ask(shown) <= 1 + 12
    before = reader.ask(shown)
    box = next(box for box in reader.all("#groups input") if not box.is_selected())
    box.click()
    assert reader.ask(shown) == before + int(box.get_attribute("data-count"))
    box.click()
    assert reader.ask(shown) == before


def test_curves_switch_axis_metric_and_scale(browser, report):
    reader = Reader(browser, report)
    label = "[...document.querySelectorAll('#learning svg text')].map(t => t.textContent)"
    assert "step" in reader.ask(label)
    for axis, text in (("tokens", "tokens"), ("seconds", "wall time, s")):
        browser.execute_script(f"document.querySelector('#learning input[value={axis}]').click()")
        assert text in reader.ask(label)
    line = "document.querySelector('#learning path.line').getAttribute('d')"
    before = reader.ask(line)
    reader.all("#learning [data-role='logy']")[0].click()
    assert reader.ask(line) != before
    options = reader.all("#learning option")
    assert [option.text for option in options] == ["val/loss", "train/loss"]
    options[1].click()
    assert "train/loss" in reader.ask(label)


def test_pointing_and_arrow_keys_show_values(browser, report):
    reader = Reader(browser, report)
    chart = reader.all("[data-task='1'] svg")[0]
    browser.execute_script("arguments[0].focus()", chart)
    chart.send_keys("\ue013")  # up: the first line's last point
    tip = reader.all("[data-task='1'] .tip")[0]
    first = tip.text
    assert re.search(r"condition 4,096, 3 seeds", first) and "±" in first
    chart.send_keys("\ue012")  # left
    assert "condition 2,048" in tip.text
    chart.send_keys("\ue013")
    assert tip.text.splitlines()[0] != first.splitlines()[0]
    dot = reader.all("#learning circle")[0]
    from selenium.webdriver import ActionChains

    ActionChains(browser).scroll_to_element(dot).move_to_element(dot).perform()
    assert "step 50, 3 seeds" in reader.all("#learning .tip")[0].text


def test_the_legend_hides_and_shows_a_variant(browser, report):
    reader = Reader(browser, report)
    button = next(b for b in reader.all("#legend button") if b.text == "rope")
    button.click()
    assert (button.get_attribute("aria-pressed"), paths(reader, "#learning")) == ("false", 4)
    button.click()
    assert paths(reader, "#learning") == 5


def test_a_command_can_be_copied(browser, report):
    reader = Reader(browser, report)
    button = reader.all(".copy")[0]
    button.click()
    done = "arguments[0].textContent !== 'Copy'"
    browser.execute_async_script(
        f"const end = arguments[1]; const wait = () => {done} ? end() : setTimeout(wait, 5); wait()",
        button,
    )
    assert button.text in ("Copied", "Selected")
    assert "python train.py model=gpt2 task=lm seed=0" in reader.all(".commands pre")[0].text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hundred_runs_stay_readable(browser, hundred, width):
    reader = Reader(browser, hundred, width)
    assert reader.ask("document.documentElement.scrollWidth") <= width
    assert len(reader.labels()) == 34
    coloured = "document.querySelectorAll('#learning g.focus path.line').length"
    assert reader.ask(coloured) == page.FOCUS
    assert (
        reader.ask("document.querySelectorAll('#learning g.context path.line').length")
        == 34 - page.FOCUS
    )
    grey = next(
        b for b in reader.all("#legend button") if b.get_attribute("aria-pressed") == "false"
    )
    grey.click()
    assert reader.ask(coloured) == page.FOCUS + 1
    field = reader.all("input[type=search]")[0]
    field.send_keys("scheme1")
    assert reader.labels() == ["scheme1", *(f"scheme1{i}" for i in range(10))]
    assert len(reader.labels("differences-table")) == 11
    field.send_keys("zzz")
    assert reader.labels() == [] and reader.all(".empty")[0].is_displayed()
    assert reader.console() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_and_endless_text_stays_text_and_in_the_page(browser, run_folder, tmp_path, width):
    endless = "a" * 500
    for index, name in enumerate((HOSTILE, endless)):
        run_folder(
            tmp_path / str(index),
            model=name,
            status="failed" if index else "finished",
            error=name,
            config={"optim": {name: name}},
            choices={"task": name},
            results={f"test/{name}": 1.0, "test/loss": 1.0},
            rows=[{"step": s, "train/loss": 1.0, name: 1.0} for s in (1, 2)],
            series={name: {"x": [1, 2], "y": [1, 2], "xlabel": name, "ylabel": name}},
            extra={"command": name, "host": {name: name}, "versions": {"a": name}},
        )
    reader = Reader(browser, compare([tmp_path])["html"], width)
    assert reader.ask("typeof window.pwned") == "undefined"
    for button in reader.all("#legend button"):
        button.send_keys("")
    assert reader.ask("document.documentElement.scrollWidth") <= width
    assert reader.ask("typeof window.pwned") == "undefined"
    assert reader.console() == []


def test_without_curves_or_results_the_page_still_works(browser, run_folder, tmp_path):
    run_folder(tmp_path / "0", status="failed", error="boom")
    reader = Reader(browser, compare([tmp_path])["html"])
    assert reader.console() == [] and reader.labels() == ["gpt2"]


class TestColours:
    """Lines that a colour-blind reader cannot tell apart are no figure."""

    # Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
    SIGHT = {
        "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "protanopia": (
            (0.152286, 1.052583, -0.204868),
            (0.114503, 0.786281, 0.099216),
            (-0.003882, -0.048116, 1.051998),
        ),
        "deuteranopia": (
            (0.367322, 0.860646, -0.227968),
            (0.280085, 0.672501, 0.047413),
            (-0.011820, 0.042940, 0.968881),
        ),
        "tritanopia": (
            (1.255528, -0.076749, -0.178779),
            (-0.078411, 0.930809, 0.147602),
            (0.004733, 0.691367, 0.303900),
        ),
    }
    XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    WHITE = (0.9505, 1.0, 1.089)

    @staticmethod
    def colour(name: str, mode: int) -> list[float]:
        """Linear RGB of a colour of the style sheet, in light (0) or dark (1)."""
        css = (page.ASSETS / "page.css").read_text()
        pair = re.search(rf"--{name}: light-dark\(#(\w+), #(\w+)\)", css)
        assert pair, name
        parts = [int(pair.group(mode + 1)[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]

    @staticmethod
    def times(matrix, vector) -> list[float]:
        return [sum(a * b for a, b in zip(row, vector)) for row in matrix]

    def lab(self, rgb, sight: str) -> list[float]:
        seen = [min(1.0, max(0.0, c)) for c in self.times(self.SIGHT[sight], rgb)]
        scaled = [v / w for v, w in zip(self.times(self.XYZ, seen), self.WHITE)]
        x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in scaled)
        return [116 * y - 16, 500 * (x - y), 200 * (y - z)]

    @pytest.mark.parametrize("mode", [0, 1])
    @pytest.mark.parametrize("sight", SIGHT)
    def test_every_pair_of_lines_differs(self, mode, sight):
        """ΔE of 10 is told apart at a glance (CIE 1976); thin lines get half as much again."""
        seen = [self.lab(self.colour(f"c{i}", mode), sight) for i in range(8)]
        gaps = [
            sum((a - b) ** 2 for a, b in zip(p, q)) ** 0.5
            for i, p in enumerate(seen)
            for q in seen[:i]
        ]
        assert min(gaps) >= 15

    @pytest.mark.parametrize("mode", [0, 1])
    def test_contrast_meets_the_guidelines(self, mode):
        """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for lines."""

        def luminance(name: str) -> float:
            return self.times(self.XYZ, self.colour(name, mode))[1]

        def contrast(name: str) -> float:
            pair = sorted((luminance(name), luminance("paper")))
            return (pair[1] + 0.05) / (pair[0] + 0.05)

        assert min(contrast(f"c{i}") for i in range(8)) >= 3.0
        assert min(contrast(n) for n in ("ink", "soft", "faint", "better", "worse")) >= 4.5
