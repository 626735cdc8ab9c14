"""The paper's own figures, to stand beside ours: other data, networks and sizes; compare rows, not tables."""

# Table 2, CMLR: setting → FID, FVD, LPIPS, PSNR, SSIM.
ATTENTION = (
    ("setting", "FID", "FVD", "LPIPS", "PSNR", "SSIM"),
    ("Non-Causal", "15.63", "287.95", "0.07 ± 0.01", "24.41 ± 2.23", "0.86"),
    ("Causal Acc.", "19.47", "210.25", "0.07 ± 0.01", "23.35 ± 1.45", "0.86"),
    ("Lim. Hist.", "19.56", "186.68", "0.07 ± 0.01", "23.83 ± 1.64", "0.86"),
    ("One-to-One", "17.11", "189.24", "0.07 ± 0.01", "24.14 ± 1.88", "0.86"),
)
# Table 3, row Total: identity similarity, lower is better.
CROPPING = (
    ("strategy", "ArcFace", "FaceNet", "FaceNet512", "VGG-Face"),
    ("Face-Centric Cropping", "0.2912", "0.2240", "0.1632", "0.3183"),
    ("Pose-Driven Landmark Cropping", "0.2968", "0.2129", "0.1472", "0.2748"),
)
# Table 4. Which terms experiments 2 to 7 combine is marked by ticks that the text version lacks; ours follow their
# order: single terms as the columns stand, then pairs.
LOSSES = (
    ("experiment", "FID", "LPIPS", "PSNR", "SSIM"),
    ("1: CE", "28.1361", "0.0365", "25.0786", "0.8837"),
    ("2: one more loss", "16.6485", "0.0128", "32.5706", "0.9615"),
    ("5: one more loss", "16.1956", "0.0138", "32.0478", "0.9620"),
    ("6: one more loss", "16.4723", "0.0131", "32.4699", "0.9653"),
    ("3: two more losses", "15.6558", "0.0151", "31.9085", "0.9632"),
    ("4: two more losses", "18.1449", "0.0162", "31.8410", "0.9623"),
    ("7: two more losses", "13.4429", "0.0133", "32.4377", "0.9643"),
    ("8: all", "13.8603", "0.0136", "33.1348", "0.9666"),
)
TABLES = {
    "attention": ("The paper's Table 2 (CMLR)", ATTENTION),
    "cropping": ("The paper's Table 3, row Total (CMLR)", CROPPING),
    "losses": ("The paper's Table 4", LOSSES),
}
