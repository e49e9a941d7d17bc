"""From a labelled sample to a threshold that can be defended, and to scores that are probabilities.

    sample       rows worth labelling: drawn at random within strata of the score, in two streaming passes
    labelling    a page that shows them and takes y and n; its labels go to `labels`
    labels       the labels of a file, joined to their rows' scores; whatever cannot be used is counted
    threshold    the threshold for a wanted precision, with an interval that has its coverage
    calibrators  isotonic and Platt calibration: fitted, applied, saved
    fit          all of that but the sample: what `jobs/calibrate.py fit` calls

Needs neither Ray nor torch. Knows nothing of how scores are made. docs/calibration.md is the user's side of it.
"""
