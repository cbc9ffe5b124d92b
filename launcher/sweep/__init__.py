"""Search for good values of a recipe's keys. Optuna chooses them and remembers; a trial is a run of the launcher on its own.

`place` is the sweep's folder and what it was asked for, `store` the trials in the database and who works on which, `space` the
choice of values, `trial` one process, `crew` the trials at a time, `result` what a sweep leaves, `page` its report.

Nothing is in memory alone: whoever works on a trial is written beside it, its values follow from (seed, number, trials before),
and its steps are in its run folder. So a sweep that is killed goes on where it was.
"""
