"""`task=extrapolation` as a person runs it."""

import json


def test_run_reads_every_length_under_every_mask(train):
    run = train(
        "task=extrapolation", "model=xpos", "task.lengths=[16,64,128,256]", "data.test_fraction=0.3"
    )
    assert run.code == 0, run.err
    results = json.loads((run.folder / "results.json").read_text())
    for length in (16, 64, 128, 256):
        for suffix in ("", "+bca", "+window"):
            for quantity in ("ppl", "bits_per_byte", "late_ppl"):
                assert results[f"test/{quantity}@{length}{suffix}"] > 0
    assert results["test/ppl@64"] == results["test/ppl@64+bca"]
    assert results["test/ppl@256"] != results["test/ppl@256+bca"]
