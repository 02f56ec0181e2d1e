"""The pictures that runs drew themselves, as data URIs of bounded size."""

import base64

from zoo.report.variants import Variant

MAX_PLOT_BYTES = 1_500_000  # of one picture
MAX_PLOTS_BYTES = 8_000_000  # of all of them
PNG = b"\x89PNG\r\n\x1a\n"


def embed_plots(variants: list[Variant]) -> tuple[list[dict], list[str]]:
    """The runs' PNG files as data URIs within the size bounds, every variant's first seed before
    any second one; and the names of those left out."""
    queue = []
    for row, variant in enumerate(variants):
        for turn, run in enumerate(variant.runs):
            queue += [(turn, row, run, path) for path in run.plots]
    queue.sort(key=lambda item: item[:2])
    shown, left_out, total = [], [], 0
    for _, row, run, path in queue:
        name = f"{run.name}/plots/{path.name}"
        try:
            size = path.stat().st_size
            content = (
                path.read_bytes() if size <= min(MAX_PLOT_BYTES, MAX_PLOTS_BYTES - total) else b""
            )
        except OSError:
            content = b""
        if not content.startswith(PNG):
            left_out.append(name)
            continue
        total += len(content)
        uri = "data:image/png;base64," + base64.b64encode(content).decode()
        shown.append({"row": row, "label": variants[row].label, "name": name, "uri": uri})
    return sorted(shown, key=lambda picture: picture["row"]), left_out
