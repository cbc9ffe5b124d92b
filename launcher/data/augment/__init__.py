"""Rows changed at random each time they are trained on. `steps` has the options, `texts` and `views` the changes, `pipeline` joins
them to the rows."""
