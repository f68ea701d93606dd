import re

import pytest


@pytest.fixture
def refused():
    """``refused(error, words, call, *args)``: the call raises that error, in one sentence that has all these words."""

    def check(error, words, call, *args, **options):
        with pytest.raises(error) as caught:
            call(*args, **options)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert re.search(word, message), message

    return check
