from tailor.measure.machine import machine


def test_the_machine_is_described_without_its_name() -> None:
    import json
    import platform

    described = machine()
    assert {"cpu", "cores", "threads", "torch", "dtype", "gpu"} <= set(described)
    assert described["cores"] >= 1
    text = json.dumps(described)
    assert platform.node() not in text
    assert "/" not in text.replace(described["cpu"], "")
