"""Trials that break the real thing and look at what comes of it; `make chaos` runs them and prints a table.

A trial is a pytest test. The modules of this package hold those that no other test is: pytest does not collect them by
itself, since some take minutes. `test_short_form.py` runs the cheap ones once with all other tests. `trial_table.py`
lists all trials, the tests elsewhere among them, and says how often each is tried.
"""
