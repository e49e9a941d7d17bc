"""How the demo model learns from rendered scenes. What `jobs/train_demo_model.py` calls.

recipe.py   all that the weights depend on
trainer.py  the loop, its reports, its saved state, and the checkpoint that comes of it
losses.py   what a step asks the model to get right

`trainer` and `losses` need torch.
"""
