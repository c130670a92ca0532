"""A complete encoder of one's own: phewas run --cohort demo --encoder examples/own_encoder.py:tiny"""

from torch import nn

from phewas.encoders.registry import PPG_125, EncoderSpec


class Tiny(nn.Module):
    """Three convolutions over PPG at 125 Hz, averaged over time: [batch, 1, samples] to [batch, 32]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 7, stride=4, padding=3), nn.ReLU(),
            nn.Conv1d(8, 16, 7, stride=4, padding=3), nn.ReLU(),
            nn.Conv1d(16, 32, 7, stride=4, padding=3), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x).mean(-1)


tiny = EncoderSpec(
    name="tiny", title="Tiny (my own)", description="Three convolutions, averaged over time.",
    factory=Tiny, contract=PPG_125, width=32, pretrained=False,
)  # fmt: skip
