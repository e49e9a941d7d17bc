"""Why a score: heat maps of chosen rows of a scored output, where the model looked for each word of a caption.

run.py        draws the maps of the rows that are asked for, and their index: what jobs/explain.py calls
rows.py       which rows those are: of given keys, or the best, the borderline and the worst
source.py     what a scored output says of itself: columns, model, where its images lie
explainer.py  pixels and captions -> maps: a model on a device, one image at a time
heatmap.py    maps -> pictures

Only the explainer needs torch, and it is given to `run`: nothing here loads a model before all else is checked. Needs no Ray.
"""
