"""The simulated world: streets, objects, LiDAR and cameras, written as a nuScenes dataset."""
