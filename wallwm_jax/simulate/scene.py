"""The tabletop: one MuJoCo model composed at run time from the assets of the installed Meta-World package.

A drawer, a button box, two free pucks, a square mat and the Sawyer arm. Everything in this file is in Meta-World's own
frame (x right, y forward, z up, metres); `environment` converts to the unified world frame.
"""

import copy
import dataclasses
import pathlib
import xml.etree.ElementTree as ElementTree

import numpy as np
from jaxtyping import Float

VIEWS = ("front", "topview", "wrist")
CAMERAS = {"front": "front", "topview": "workspace", "wrist": "gripperPOV"}
"""View name -> camera name in the model."""

PUCK_RADIUS, PUCK_HALF_HEIGHT = 0.03, 0.03
MAT_HALF_SIZE = 0.055
DRAWER_TRAVEL = 0.16
HANDLE_OFFSET = 0.18
"""Distance from the drawer's body origin to the centre of the handle's bar, both along -y, with the drawer closed."""
HANDLE_HEIGHT, DRAWER_FLOOR = 0.09, 0.046
BUTTON_SCALE = 0.65
BUTTON_HEIGHT = 0.12 * BUTTON_SCALE
BUTTON_OFFSET = 0.194 * BUTTON_SCALE
"""Distance from the box's origin to the face of the unpressed button, along -y."""
BUTTON_TRAVEL = 0.06 * BUTTON_SCALE

_UNSEEN_MESHES = ("pedestal", "base", "l0", "l1", "head", "tablebody")

_MATERIALS = {
    "table_wood": "0.62 0.52 0.40 1",
    "basic_floor": "0.45 0.45 0.45 1",
    "wall_metal": "0.55 0.55 0.55 1",
    "drawer_beige": "0.35 0.62 0.38 1",
    "drawer_white": "0.92 0.92 0.92 1",
    "btn_yellow": "0.85 0.65 0.1 1",
    "btn_metal": "0.8 0.8 0.8 1",
    "btn_red": "0.75 0.05 0.25 1",
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the objects stand at reset, Meta-World frame, metres. `drawer_opening` is 0 (closed) to DRAWER_TRAVEL."""

    drawer: Float[np.ndarray, "2"]
    drawer_opening: float
    button: Float[np.ndarray, "2"]
    red_puck: Float[np.ndarray, "2"]
    blue_puck: Float[np.ndarray, "2"]
    mat: Float[np.ndarray, "2"]
    arm: Float[np.ndarray, "3"]
    gripper: float


def sample_layout(generator: np.random.Generator, drawer_opening: float) -> Layout:
    """Draws a layout without overlaps that leaves the arm room to hook the drawer and to press the button."""
    while True:
        side = generator.choice([-1.0, 1.0])
        drawer = np.array([side * generator.uniform(0.07, 0.15), generator.uniform(0.86, 0.91)])
        button = np.array([-side * generator.uniform(0.07, 0.19), generator.uniform(0.68, 0.84)])
        if abs(drawer[0] - button[0]) < 0.12 + 0.08 + 0.04:
            continue
        points: list[np.ndarray] = []
        for _ in range(200):
            point = np.array([generator.uniform(-0.22, 0.22), generator.uniform(0.44, 0.72)])
            if _is_free(point, drawer, button) and all(np.linalg.norm(point - other) > 0.12 for other in points):
                points.append(point)
            if len(points) == 3:
                arm = np.array(
                    [generator.uniform(-0.18, 0.18), generator.uniform(0.45, 0.66), generator.uniform(0.17, 0.32)]
                )
                gripper = float(generator.choice([0.0, 1.0]))
                return Layout(drawer, drawer_opening, button, points[0], points[1], points[2], arm, gripper)


def _is_free(point: np.ndarray, drawer: np.ndarray, button: np.ndarray) -> bool:
    """Whether a puck there is clear of the opened drawer, the button box and the way to its button."""
    reach = HANDLE_OFFSET + DRAWER_TRAVEL + 0.02
    in_drawer = abs(point[0] - drawer[0]) < 0.12 + 0.055 and point[1] > drawer[1] - reach - 0.055
    before_button = abs(point[0] - button[0]) < 0.09 and point[1] > button[1] - BUTTON_OFFSET - 0.13
    in_box = abs(point[0] - button[0]) < 0.08 + 0.06 and point[1] > button[1] - 0.08 - 0.06
    return not (in_drawer or before_button or in_box)


def scene_xml() -> str:
    """The composed model. Asset folders point into the installed Meta-World package."""
    import metaworld

    assets = pathlib.Path(metaworld.__file__).parent / "assets"
    parts = assets / "objects" / "assets"
    root = ElementTree.Element("mujoco", model="tabletop")
    folder = str(assets / "sawyer_xyz")
    names = ("xyz_base_dependencies", "drawer_dependencies", "buttonbox_dependencies")
    for path in (assets / "scene" / "basic_scene.xml", *(parts / f"{name}.xml" for name in names)):
        root.extend(ElementTree.parse(path).getroot())
    ElementTree.SubElement(
        root,
        "compiler",
        angle="radian",
        inertiafromgeom="auto",
        inertiagrouprange="4 5",
        meshdir=folder,
        texturedir=folder,
    )
    world = ElementTree.SubElement(root, "worldbody")
    arm = ElementTree.parse(parts / "xyz_base.xml").getroot()
    for site in arm.iter("site"):
        site.set("rgba", "0 0 0 0")
    world.extend(arm)
    world.append(_drawer(ElementTree.parse(parts / "drawer.xml").getroot()))
    world.append(_button(ElementTree.parse(parts / "buttonbox.xml").getroot(), root))
    world.extend(_loose_objects())
    _flatten_materials(root)
    _drop_unseen(root)
    root.extend(
        ElementTree.fromstring(
            '<x><actuator><position ctrllimited="true" ctrlrange="-1 1" joint="r_close" kp="400"/>'
            '<position ctrllimited="true" ctrlrange="-1 1" joint="l_close" kp="400"/></actuator>'
            '<equality><weld body1="mocap" body2="hand" solref="0.02 1"/></equality></x>'
        )
    )
    return ElementTree.tostring(root, encoding="unicode")


def _drawer(source: ElementTree.Element) -> ElementTree.Element:
    """The drawer with its handle moved 20 mm out, so that closed fingers fit behind the bar with room to spare."""
    body = ElementTree.Element("body", name="drawer", pos="0.1 0.9 0")
    body.extend(copy.deepcopy(list(source)))
    for geom in body.iter("geom"):
        if geom.get("mesh") == "drawerhandle":
            geom.set("pos", "0 -0.134 0")
        elif geom.get("type") == "capsule":
            x, _, z = (float(value) for value in geom.get("pos").split())
            geom.set("pos", f"{x} {-0.17 if x == 0 else -0.13} {z}")
            if x != 0:
                geom.set("size", "0.009 0.04")
    for x in (-0.05, 0.05):
        link = next(item for item in body.iter("body") if item.get("name") == "drawer_link")
        ElementTree.SubElement(
            link, "geom", type="box", material="drawer_white", pos=f"{x} -0.105 0", size="0.007 0.025 0.007"
        )
    return body


def _button(source: ElementTree.Element, root: ElementTree.Element) -> ElementTree.Element:
    """The button box scaled to leave room on the table; its meshes (in `root`) are scaled alike."""
    for mesh in root.iter("mesh"):
        if "buttonbox" in mesh.get("file", ""):
            mesh.set("scale", " ".join([str(BUTTON_SCALE)] * 3))
    body = ElementTree.Element("body", name="box", pos=f"-0.15 0.8 {BUTTON_HEIGHT}")
    body.extend(copy.deepcopy(list(source)))
    for element in body.iter():
        for key in ("pos", "size", "range"):
            if element is not body and element.get(key):
                element.set(key, " ".join(str(float(value) * BUTTON_SCALE) for value in element.get(key).split()))
    return body


def _loose_objects() -> list[ElementTree.Element]:
    puck = (
        '<body name="{name}" pos="{x} 0.5 {height}"><joint name="{name}_joint" type="free" limited="false" damping="0"'
        ' armature="0"/><inertial pos="0 0 0" mass="0.5" diaginertia="6e-4 6e-4 6e-4"/>'
        '<geom name="{name}" type="cylinder" size="{radius} {height}" rgba="{rgba}" solimp="0.99 0.99 0.01"'
        ' solref="0.01 1" contype="1" conaffinity="1" friction="1 0.1 0.002" condim="4"/></body>'
    )
    sizes = {"radius": PUCK_RADIUS, "height": PUCK_HALF_HEIGHT}
    text = (
        puck.format(name="red_puck", x=-0.1, rgba="0.95 0.1 0.05 1", **sizes)
        + puck.format(name="blue_puck", x=0.1, rgba="0.1 0.2 0.95 1", **sizes)
        + f'<body name="mat" pos="0 0.5 0.001"><geom type="box" size="{MAT_HALF_SIZE} {MAT_HALF_SIZE} 0.001"'
        ' rgba="0.65 0.15 0.75 1" contype="0" conaffinity="0"/></body>'
        '<camera name="workspace" pos="0 0.67 1.5" fovy="23"/>'
        '<camera name="front" pos="0.62 0.02 0.62" xyaxes="0.72 0.69 0 -0.40 0.42 0.82" fovy="42"/>'
    )
    return list(ElementTree.fromstring(f"<x>{text}</x>"))


def _drop_unseen(root: ElementTree.Element) -> None:
    """Removes the walls round the table (the drawer would hit one) and hides links that no view ever shows."""
    for parent in root.iter("worldbody"):
        for body in [item for item in parent if item.get("name") == "RetainingWall"]:
            parent.remove(body)
    for geom in root.iter("geom"):
        if geom.get("mesh") in _UNSEEN_MESHES:
            geom.set("rgba", "0 0 0 0")
    for light in root.iter("light"):
        light.set("diffuse", "0.25 0.25 0.25")
        light.set("specular", "0 0 0")
    for headlight in root.iter("headlight"):
        headlight.set("diffuse", "0.25 0.25 0.25")


def _flatten_materials(root: ElementTree.Element) -> None:
    """Plain matt colours: textures cost bits in the video and say nothing."""
    for material in root.iter("material"):
        for key in ("texture", "texrepeat", "reflectance", "specular", "shininess"):
            material.attrib.pop(key, None)
        material.set("rgba", _MATERIALS.get(material.get("name"), material.get("rgba", "0.5 0.5 0.5 1")))
    for asset in root.iter("asset"):
        for texture in [item for item in asset.iter("texture") if item.get("type") != "skybox"]:
            asset.remove(texture)
