"""Constants of the simulated world. They were fixed before any experiment. A change of one needs a new WORLD_VERSION.

Names end with their units. Frames: ego (x forward, y left, z up, origin on the ground below the rear axle), LIDAR_TOP
(x right, y forward, z up). Numbers marked "nuScenes" come from the nuScenes paper or a public sample's calibration.
"""

from __future__ import annotations

from pdetr3d.tables import names

WORLD_VERSION = 2
KEYFRAME_PERIOD_US = 500_000  # nuScenes: 2 Hz
FIRST_TIMESTAMP_US = 1_600_000_000_000_000
SCENE_SPACING_US = 1_000_000_000  # between the starts of two scenes
SCENE_SPACING_M = 400.0  # between two scenes, which lie on a square grid ...
SCENE_GRID = 64  # ... of this many scenes per row
ANNOTATION_RANGE_M = 60.0  # boxes are annotated up to this distance from the ego vehicle
MIN_VISIBLE_PX = 4  # an object that the LiDAR never hits is annotated if a camera shows this many pixels of it

# --- LiDAR: 32 beams, nuScenes elevation span, mounted as in nuScenes with a small tilt ------------------------------
LIDAR_BEAMS = 32
LIDAR_ELEVATION_DEG = (-30.67, 10.67)
LIDAR_POSITION_M = (0.94, 0.0, 1.84)
LIDAR_YAW_PITCH_ROLL_DEG = (-90.0, 0.4, -0.3)  # LIDAR +x -> ego -y, +y -> ego +x
LIDAR_MAX_RANGE_M = 70.0
LIDAR_NOISE_M = 0.02  # along the ray
LIDAR_DROPOUT_BASE = 0.08  # share of returns lost at any distance
LIDAR_DROPOUT_FAR = 1.3  # additional share lost at maximum range on a surface that reflects nothing

# --- Cameras: name -> (yaw in ego [deg], position in ego [m], focal length [px of 1600], trigger vs LiDAR [us])
CAMERA_RIG: dict[str, tuple[float, tuple[float, float, float], float, int]] = {
    "CAM_FRONT": (0.3, (1.70, 0.02, 1.51), 1266.0, -35_000),
    "CAM_FRONT_RIGHT": (-56.0, (1.55, -0.49, 1.50), 1261.0, -27_000),
    "CAM_FRONT_LEFT": (55.0, (1.52, 0.49, 1.51), 1272.0, -43_000),
    "CAM_BACK": (-179.7, (0.03, 0.0, 1.58), 809.0, -10_000),
    "CAM_BACK_LEFT": (108.5, (1.04, 0.48, 1.59), 1257.0, -1_000),
    "CAM_BACK_RIGHT": (-110.0, (1.01, -0.48, 1.56), 1259.0, -20_000),
}
CAMERA_PITCH_DEG = 0.6  # looking slightly down
CAMERA_CENTER_SHARE = (0.507, 0.538)  # principal point / (width, height)
NATIVE_IMAGE_PX = (1600, 900)
JPEG_QUALITY = 92
PIXEL_NOISE = 3.0  # standard deviation in 8-bit steps

# --- Objects: nuScenes category, mean number spawned per 120 m of street. Sizes: subtypes.py --------------------
CATEGORY = names.CATEGORY
# Each world multiplies the class means of subtypes.py by factors of its own; all factors of a class are above 1, or all
# below. These are the ranges of the factors' absolute logarithms for length, width (lanes are 3.5 m wide), height.
CLASS_SCALE_LOG = ((0.06, 0.13), (0.03, 0.06), (0.05, 0.11))
SPAWN_COUNT = {
    "car": 14.5,
    "truck": 2.3,
    "construction_vehicle": 1.3,
    "bus": 1.4,
    "trailer": 1.5,
    "barrier": 7.0,
    "motorcycle": 2.2,
    "bicycle": 2.2,
    "pedestrian": 16.0,
    "traffic_cone": 6.5,
}
# Class -> placement -> share of the objects. layout.py has a method ``_at_PLACEMENT`` for each placement.
PLACEMENT = {
    "car": {"lane": 0.22, "curb": 0.26, "lot": 0.32, "cross": 0.20},
    "truck": {"lane": 0.25, "curb": 0.15, "lot": 0.40, "cross": 0.20},
    "construction_vehicle": {"zone": 0.6, "lot": 0.4},
    "bus": {"lane": 0.30, "curb": 0.15, "lot": 0.25, "cross": 0.30},
    "trailer": {"lane": 0.20, "curb": 0.15, "lot": 0.50, "cross": 0.15},
    "motorcycle": {"lane": 0.40, "curb": 0.35, "cross": 0.25},
    "bicycle": {"lane_edge": 0.5, "sidewalk": 0.5},
    "pedestrian": {"sidewalk": 0.75, "crosswalk": 0.15, "zone": 0.10},
}
STANDING_SHARE = 0.4  # of pedestrians
ANGLED_PARKING_SHARE = 0.5  # of streets where cars park at an angle to the curb
BOX_MARGIN_M = 0.04  # per side, between solid and annotated box: range noise stays inside, as in hand-drawn boxes
BOX_BASE_M = 0.05  # height of every box's underside above the ground: returns of the ground are then outside
EGO_SIZE_M = (5.2, 2.4)  # (l, w) of the area around the middle of the ego vehicle that is kept free of objects
EGO_CENTER_M = 1.4  # distance of the ego vehicle's middle ahead of the ego origin

# --- Street -------------------------------------------------------------------------------------------------------
LANE_WIDTH_M = 3.5
CURB_STRIP_M = 2.6
SIDEWALK_M = 3.5
STREET_REACH_M = 62.0  # objects fill the street up to this distance ahead of, behind, and beside the ego path
INTERSECTION_SHARE = 0.7  # share of the straight drives that pass a crossing road
TURN_SHARE = 0.5  # of scenes in which the ego vehicle turns left or right
EGO_STOPPED_SHARE = 0.1
