"""Rendered scenes with captions whose truth is known: what the demo model learns from, and is judged on.

* scene.py         what a scene is; sampling by (split, index); the colour-shape combinations kept for the test split
* render.py        a scene -> a picture -> JPEG bytes
* captions.py      what a caption claims of a scene, whether it is true, and the grammar that words it
* negatives.py     false captions: another scene's, or the scene's own with one word changed
* patches.py       what each patch of a picture shows
* batches.py       what a training step is given of some scenes: captions, changed ones, who fits whom
* order.py         in which order training sees the scenes
* cache.py         rendered scenes in one file of pixels
* evaluation.py    how well a model tells true captions from false ones: the figures of the demo model's card
* localisation.py  how often heat maps point at the thing that is named

Pillow and numpy only; models are given. Scenes and words are pure functions of seeds: the same split and index give
the same scene, words and bytes.
"""
