"""What the worker is compared with, each a process of its own, written as a competent user would write it.

They come to the same rows as the worker, and are checked for that, but guard against nothing: a crash between
commit and acknowledgement applies events twice, and two of a kind at once would lose some. `read_limit` and
`write_limit` do half of the work, as fast as clients allow: no worker can be faster than both.
"""
