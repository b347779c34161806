"""Learning itself: thresholds that a broken agent cannot reach."""

from ddpg_tf import Config, train


def test_pendulum_is_learnt_in_6000_steps(tmp_path):
    # A random policy scores about -1200, hanging still about -1500; three seeds of this reached -112 or better.
    result = train(
        Config(
            env="Pendulum-v1",
            total_steps=6000,
            warmup_steps=500,
            num_envs=2,
            update_every=50,
            n_step=3,
            hidden_units=(64, 64),
            batch_size=64,
            noise="ou",
            noise_sigma=0.3,
            eval_every=1000,
            checkpoint_every=0,
            log_every=0,
            run_dir=str(tmp_path / "run"),
        )
    )
    assert result.best_return >= -250
