"""One self-contained HTML page of a scored dataset: how the scores lie, where to cut, what the pairs look like, what failed.

run.py       reads the output once, draws up the page, writes it: what jobs/report.py calls
count.py     all that is counted in that one pass          grid.py        the joint histogram of both scores
gallery.py   which pairs are shown                         pairs.py       what is known of those
explanations.py  their heat maps, where there are some (small images: pipeline/thumbnails.py)
facts.py     the run's summary and provenance              page.py        numbers and texts -> HTML that nothing breaks out of

page.html, page.css, *.js are the page itself: no library, no network. Needs neither Ray nor torch.
"""
