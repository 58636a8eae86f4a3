"""The published schedule, written out for the tests of training and losses."""

from skhgad.fitting.schedule import TrainingPlan

PUBLISHED = TrainingPlan(
    n_passes=200,
    batch_size=8,
    learning_rate=2e-4,
    center_lr_factor=3.0,
    betas=(0.95, 0.99),
    weight_decay=1e-4,
    warmup_fraction=0.08,
    final_lr_fraction=1e-3,
    first_stage_fraction=0.08,
    lambda_inter=1.0,
    lambda_mi=100.0,
    lambda_entropy=1.0,
    lambda_intra=1.0,
    label_smoothing=0.02,
    position_fraction=1.0,
)
