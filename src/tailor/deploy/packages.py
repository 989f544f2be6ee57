"""Packages that only some of what is done here needs, and the sentence for one that is not there."""

from importlib.util import find_spec

from tailor.errors import TailorError

ONNX = ("onnx", "onnxruntime", "onnxscript")


def check_installed(*packages: str) -> None:
    """TailorError where one of the packages is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        raise TailorError(
            f"ONNX needs packages that are not installed: {names}", hint="pip install 'tailor-models[export]'"
        )
