import pytest

# Their asserts are to show what they compared, like those of the tests.
pytest.register_assert_rewrite("tests.e2e.books")
