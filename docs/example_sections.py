"""A griffe extension: the docstrings' section `Example:` is the one that griffe calls `Examples:`."""

import re
from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Have doctests shown as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
