"""An executable specification: what the table and the transcripts must be, computed as plainly as possible.

Nothing here imports the worker or its projections. The property tests compare those with this package, so a
rule that both got wrong in the same way must have been misread twice. Speed does not matter here; being
obviously right does.
"""
