"""Is a cut exact? A trial on a copy, held against a masked reference, before anything is believed."""
