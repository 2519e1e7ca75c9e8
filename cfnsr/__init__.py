"""The companion package to CFN-SR, a cross-modal fusion network for emotion recognition."""

from warnings import filterwarnings

# librosa, pooch and captum import tqdm.auto, which asks for ipywidgets in every notebook. The bars
# here are text, so that they show in the pipeline's output too.
filterwarnings("ignore", message="IProgress not found")
