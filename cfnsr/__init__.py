"""The companion package to CFN-SR, a cross-modal fusion network for emotion recognition."""
