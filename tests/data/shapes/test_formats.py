"""OBJ, PLY, STL, OFF and clouds as programs really write them, and what is wrong with some."""

import gzip
import io
import struct

import numpy as np
import pytest

from ddimx.data.shapes.meshes import EXTENSIONS, read_mesh, read_surface
from ddimx.errors import DdimxError
from tests.data.shapes.meshes import BOX, FACES, QUADS, glb, npz, obj, off, ply, stl

# A pentagon with a notch, which a fan from its first corner fills, and two more faces beside it.
CORNERS = [(0, 0, 0), (2, 0, 0), (2, 2, 0), (1, 0.5, 0), (0, 2, 0), (0, 0, 3), (2, 0, 3)]
CORNERS = np.array(CORNERS, float)
POLYGONS = [(0, 1, 2, 3, 4), (0, 5, 1), (0, 1, 6, 5)]
AREA = 4 - 1.5  # of the pentagon: the square without the notch


def read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return read_surface(tmp_path / name)


def triangles(surface):
    corners = surface.vertices[surface.faces].round(5)
    return sorted(sorted(map(tuple, t)) for t in corners.tolist())


BOX_TRIANGLES = sorted(sorted(map(tuple, t)) for t in BOX[FACES].tolist())


def area(surface, height=0.0):
    """The area of the triangles that lie at one height."""
    corners = surface.vertices[surface.faces]
    corners = corners[(corners[..., 2] == height).all(axis=1)]
    sides = corners[:, 1:] - corners[:, :1]
    return np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum() / 2


def text_of(polygons, start):
    return [
        " ".join(map(str, [len(p), *p] if start is None else [i + start for i in p]))
        for p in polygons
    ]


def polygon_ply(form, length="uchar", index="int", *, extra=False, behind=b""):
    """A PLY of the polygons, in any of the three forms and with other elements around it."""
    order = ">" if form == "binary_big_endian" else "<"
    codes = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"}
    codes |= {"uint8": "B", "int32": "i", "float": "f"}
    head = [f"format {form} 1.0", "comment made by a progr\xe4m", "obj_info none"]
    rows = []

    def element(name, properties, values, packing):
        head.append(f"element {name} {len(values)}")
        head.extend(f"property {line}" for line in properties)
        for row in values:
            text = " ".join(map(str, row)) + "\n"
            rows.append(
                text.encode() if form == "ascii" else struct.pack(order + packing(row), *row)
            )

    if extra:
        element("camera", ["double fov"], [(45.0,)], lambda row: "d")
    points = [(*corner, i) for i, corner in enumerate(CORNERS.tolist())]
    element("vertex", ["float x", "float y", "float z", "uchar red"], points, lambda row: "3fB")
    faces = [(len(p), *p, 7) for p in POLYGONS]
    face = [f"list {length} {index} vertex_indices", "uchar group"]
    element("face", face, faces, lambda row: f"{codes[length]}{len(row) - 2}{codes[index]}B")
    if extra:
        element("edge", ["int vertex1", "int vertex2"], [(0, 1)] * 3, lambda row: "ii")
        head.append("element material 1000000000")
        head.append("property float shine")
    return "\n".join(["ply", *head, "end_header\n"]).encode("latin-1") + b"".join(rows) + behind


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("extra", [False, True])
def test_ply_of_mixed_polygons(tmp_path, form, extra):
    content = polygon_ply(form, extra=extra, behind=b"\n\0more")
    surface = read(tmp_path, "a.ply", content)
    assert len(surface.faces) == 3 + 1 + 2
    assert area(surface) == pytest.approx(AREA)


@pytest.mark.parametrize("length", ["char", "uchar", "short", "ushort", "int", "uint", "uint8"])
@pytest.mark.parametrize("index", ["short", "ushort", "int32", "uint"])
def test_ply_lists_of_every_width(tmp_path, length, index):
    surface = read(tmp_path, "a.ply", polygon_ply("binary_little_endian", length, index))
    assert area(surface) == pytest.approx(AREA)


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_ply_headers_of_other_systems(tmp_path, newline):
    head, body = ply().split(b"end_header\n")
    head = head.replace(b"\n", newline.encode())
    content = head + b"  end_header " + newline.encode() + body
    assert triangles(read(tmp_path, "a.ply", content)) == BOX_TRIANGLES
    body = polygon_ply("ascii").replace(b"\n", newline.encode())
    assert area(read(tmp_path, "b.ply", body)) == pytest.approx(AREA)


def test_ply_of_quadrilaterals_with_texture_coordinates(tmp_path):
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(BOX)}\n"
    head += "".join(f"property double {axis}\n" for axis in "xyz")
    head += f"element face {len(QUADS)}\nproperty list uchar uint vertex_index\n"
    head += "property list uchar float texcoord\nend_header\n"
    body = BOX.tobytes()
    body += b"".join(struct.pack("<B4IB8f", 4, *quad, 8, *range(8)) for quad in QUADS)
    surface = read(tmp_path, "a.ply", head.encode() + body)
    assert triangles(surface) == BOX_TRIANGLES


OBJ = obj(faces=QUADS).decode()
CHANGED_OBJ = {
    "a byte-order mark": "\ufeff" + OBJ,
    "tabs": OBJ.replace(" ", "\t"),
    "indented": "".join(f" \t {line}\n" for line in OBJ.splitlines()),
    "bare CR": OBJ.replace("\n", "\r"),
    "CR LF": OBJ.replace("\n", "\r\n"),
    "two line ends": OBJ.replace("\n", "\r\n", 5),
    "blanks at the ends": OBJ.replace("\n", "  \n\n"),
    "lines that go on": OBJ.replace("f ", "f \\\n ").replace("v ", "v\t\\  \r\n"),
    "a path that ends with a backslash": "# C:\\models\\\nmtllib C:\\maps\\\n" + OBJ,
    "colors and weights": "\n".join(
        line + (" 1 0.5 0.5" if line.startswith("v") else "") for line in OBJ.splitlines()
    ),
    "exponents": OBJ.replace("4.0", "0.4E+1").replace("2.0", "+2e0"),
    "counted back": "\n".join(
        "f " + " ".join(str(int(i) - 9) for i in line.split()[1:]) if line[0] == "f" else line
        for line in OBJ.splitlines()
    ),
    "textures and normals": OBJ.replace("f 1 2 4 3", "f 1/1/1 2//2 4/4 3/"),
    "other lines": "g a\nvt 0 0\nvn 0 0 1\nvp 1\nl 1 2\np 1\ns off\ncurv 0 1 1 2\n" + OBJ,
    "comments at the ends": OBJ.replace("\n", " # 1 2 3\n"),
    "no end of line": OBJ.rstrip(),
}


@pytest.mark.parametrize("name", CHANGED_OBJ)
def test_obj_in_every_guise(tmp_path, name):
    surface = read(tmp_path, "a.obj", CHANGED_OBJ[name].encode())
    assert triangles(surface) == BOX_TRIANGLES


def test_obj_in_utf_16(tmp_path):
    """As PowerShell writes what it redirects into a file."""
    assert triangles(read(tmp_path, "a.obj", OBJ.encode("utf-16"))) == BOX_TRIANGLES


def test_a_negative_index_counts_from_where_it_stands(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 5 5 5\nv 6 5 5\nv 5 6 5\nf -3 -2 -1\n"
    assert read(tmp_path, "a.obj", text.encode()).faces.tolist() == [[0, 1, 2], [3, 4, 5]]


def polygon_stl():
    loops = (
        "facet normal 0 0 1\n outer loop\n"
        + "".join("  vertex {} {} {}\n".format(*CORNERS[i]) for i in polygon)
        + " endloop\nendfacet\n"
        for polygon in POLYGONS
    )
    return f"solid of mine\n{''.join(loops)}endsolid of mine\n".encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.obj",
            "\n".join(
                [
                    *("v {} {} {}".format(*c) for c in CORNERS),
                    *("f " + line for line in text_of(POLYGONS, 1)),
                ]
            ).encode(),
        ),
        (
            "a.off",
            "\n".join(
                [
                    "OFF",
                    "7 3 0",
                    *(" ".join(map(str, c)) for c in CORNERS.tolist()),
                    *text_of(POLYGONS, None),
                ]
            ).encode(),
        ),
        ("a.stl", polygon_stl()),
    ],
)
def test_notches_stay_empty(tmp_path, name, content):
    assert area(read(tmp_path, name, content)) == pytest.approx(AREA)


def ascii_stl(solid=b"solid box"):
    lines = [solid]
    for face in FACES:
        lines += [b"facet normal 0 0 1", b"outer loop"]
        lines += [b"vertex %r %r %r" % tuple(map(float, BOX[i])) for i in face]
        lines += [b"endloop", b"endfacet"]
    return b"\n".join([*lines, b"endsolid\n"])


@pytest.mark.parametrize(
    "content",
    [
        b"solid written by a program".ljust(80) + stl()[80:],  # binary, with the word of text
        b"solid facet endsolid".ljust(80) + stl()[80:],
        stl() + b"\r\n",
        ascii_stl(),
        ascii_stl(b"  SOLID\xe4").upper().replace(b"\n", b"\r\n  "),
        ascii_stl().replace(b"\n", b"\r"),
        ascii_stl() + ascii_stl().replace(b"0.0", b"0"),  # two solids, the second the same
        b"\xef\xbb\xbf" + ascii_stl(),
    ],
)
def test_both_kinds_of_stl(tmp_path, content):
    surface = read(tmp_path, "a.stl", content)
    assert sorted({str(t) for t in triangles(surface)}) == sorted(map(str, BOX_TRIANGLES))


@pytest.mark.parametrize(
    "content",
    [
        off(),
        off().replace(b"OFF\n", b"OFF "),  # ModelNet's
        off().replace(b"OFF\n", b"OFF"),
        off().replace(b"\n", b"\r\n"),
        off().replace(b"\n", b" # a comment\n\n"),
        b"# first\nCOFF" + off()[3:].replace(b"0.0 0.0 0.0\n", b"0 0 0 255 0 0 255\n"),
    ],
)
def test_off_in_every_guise(tmp_path, content):
    assert triangles(read(tmp_path, "a.off", content)) == BOX_TRIANGLES


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "off", "xyz"])
def test_packed_by_gzip(tmp_path, kind):
    content = {"obj": obj(), "ply": ply(), "stl": stl(), "off": off(), "xyz": b"0 0 0\n1 2 3"}[kind]
    surface = read(tmp_path, f"a.{kind}.gz", gzip.compress(content, mtime=0))
    assert len(surface.vertices) == 2 if kind == "xyz" else triangles(surface) == BOX_TRIANGLES


def test_what_gzip_unpacks_is_bounded(tmp_path):
    packed = gzip.compress(b"v 0 0 0\n" * (4 << 20), 1, mtime=0)
    with pytest.raises(DdimxError, match=r"a\.obj\.gz: .*unpacks to .*--limit-memory"):
        read(tmp_path, "a.obj.gz", packed)


def pcd(form, fields="x y z rgb", count="1 1 1 1"):
    rows = [(*corner, 1.5) for corner in BOX.tolist()]
    head = "# .PCD v0.7\nVERSION 0.7\n" + f"FIELDS {fields}\nSIZE 4 4 4 4\nTYPE F F F F\n"
    head += f"COUNT {count}\nWIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
    head += f"POINTS {len(rows)}\nDATA {form}\n"
    if form == "ascii":
        return head.encode() + "\n".join(" ".join(map(str, row)) for row in rows).encode()
    return head.encode() + b"".join(struct.pack("<4f", *row) for row in rows)


def listed(*more, form="{} {} {}", first=""):
    rows = (form.format(*corner) + "".join(f" {word}" for word in more) for corner in BOX.tolist())
    return (first + "\n".join(rows) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xyz", listed()),
        ("a.xyz", listed("0", "0", "1")),
        ("a.txt", listed(form="{},{},{},0,0,1")),  # ModelNet's
        ("a.txt", listed(form="{}, {}, {}", first="x, y, z\n")),
        ("a.txt", listed(form="{};{};{}", first="//X;Y;Z\r\n")),
        ("a.txt", listed(form="  {}\t{}\t{} ", first="\ufeff# made by hand\n\n")),
        ("a.pts", listed("-12", "255", "0", "9", first="8\n")),
        ("a.pts", listed()),
        ("a.pcd", pcd("ascii")),
        ("a.pcd", pcd("binary")),
        ("a.npy", BOX),
        ("a.npy", np.column_stack([BOX, BOX * 0 + [0, 0.6, 0.8]]).astype(np.float32)),
        ("a.npy", np.column_stack([BOX, BOX * 0 + 255])),
        ("a.npy", np.column_stack([BOX, BOX * 0.1])),
        ("a.npz", npz(pointcloud=BOX, normals=BOX * 0)),  # the original project's
        ("a.npz", npz(points=BOX.astype(np.float16), normals=BOX, loc=BOX[0], scale=np.array(2))),
        ("a.npz", npz(xyz=BOX, colors=BOX, point_normals=BOX, mask=BOX[:, 0])),
    ],
)
def test_clouds(tmp_path, name, content):
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
        surface = read_surface(tmp_path / name)
    else:
        surface = read(tmp_path, name, content)
    assert surface.faces is None
    assert surface.vertices.tolist() == BOX.tolist()


def test_points_that_no_sensor_saw_are_left_out(tmp_path):
    content = pcd("ascii").replace(b"0.0 1.0 0.0 1.5", b"nan nan nan 0")
    assert len(read(tmp_path, "a.pcd", content).vertices) == 7


def test_pcd_finds_its_columns(tmp_path):
    head, rows = pcd("ascii", "id z y x", "1 1 1 1").split(b"ascii\n")
    surface = read(tmp_path, "a.pcd", head + b"ascii\n" + rows)
    columns = np.column_stack([BOX, np.full(8, 1.5)])[:, [3, 2, 1]]
    assert surface.vertices.tolist() == columns.tolist()


WRONG = [
    ("a.obj", OBJ + "f 0 1 2\n", r"'f 0 1 2' names vertex 0; there are 8, counted from 1"),
    ("a.obj", OBJ + "f 1 2 9\n", "names vertex 9; there are 8"),
    ("a.obj", "f -1 1 2\n" + OBJ, "names vertex -1; there are 8"),
    ("a.obj", OBJ + "f 1 2 x\n", "a face of other than whole numbers: .*x"),
    ("a.obj", OBJ + "v 1 2\n", "a vertex of other than three numbers: 'v 1 2'"),
    ("a.obj", OBJ + "v 1,5 2 3\n", "a vertex of other than three numbers: .*1,5"),
    ("a.stl", stl()[:-10], "it is cut off: its header declares 12 triangles, 590 bytes of 600"),
    ("a.stl", b"solid".ljust(80) + stl()[80:-10], "it is cut off: its header declares 12"),
    ("a.stl", ascii_stl()[:-60], "it is cut off: no 'endsolid' ends it"),
    ("a.stl", stl() + bytes(600), "declares 12 triangles, 600 more bytes"),
    ("a.stl", stl()[:80] + bytes(4) + stl()[84:], "declares 0 triangles, 600 more bytes"),
    ("a.stl", ascii_stl().replace(b"4.0", b"4,0"), "could not convert string to float: .*4,0"),
    ("a.ply", polygon_ply("binary_little_endian")[:-40], "early end-of-file"),
    ("a.ply", polygon_ply("ascii").replace(b"vertex 7", b"vertex 9"), "element 'vertex'"),
    ("a.ply", polygon_ply("ascii").replace(b"vertex 7", b"vertex 7000000"), "it is cut off"),
    (
        "a.ply",
        polygon_ply("ascii").replace(b"element face", b"element tristrips"),
        "'tristrips'.*Me",
    ),
    ("a.ply", polygon_ply("ascii").replace(b"\n4 0 1 6 5", b"\n4 0 1 7 5"), "vertex 7 of 7"),
    ("a.ply", polygon_ply("ascii").replace(b"float z", b"float w"), "no x, y and z"),
    ("a.ply", polygon_ply("ascii", index="float"), "numbers that are not whole"),
    (
        "a.ply",
        polygon_ply("ascii").replace(b"ascii", b"binary"),
        "format 'binary'; ascii, binary_little",
    ),
    ("a.off", off().replace(b"OFF", b"4OFF"), "more than three dimensions"),
    ("a.off", off().replace(b"OFF", b"OFF BINARY"), "binary OFF, which is not read"),
    ("a.off", off()[:-20], "it is cut off|fewer vertices"),
    ("a.off", off().replace(b"3 0 1 3", b"3 0 1 8"), "names vertex 8 of 8"),
    ("a.pts", listed(first="9\n"), "declares 9 points, 8 follow"),
    ("a.txt", "1,5 2,5 3,5\n2,5 3,5 4,5\n", "decimal commas"),
    ("a.xyz", "0 0 0\n1 2\n", "a.xyz: not a readable XYZ"),
    ("a.xyz", "3\nwater\nO 0 0 0\nH 1 0 0\nH 0 1 0\n", "a.xyz: not a readable XYZ"),
    ("a.xyz", "", "there is no mesh in it|no points"),
    ("a.pcd", pcd("binary_compressed"), "'binary_compressed'.*pcl_convert_pcd_ascii_binary"),
    ("a.pcd", pcd("binary")[:-10], "cut off: its header declares 8 points, 7 follow"),
    ("a.pcd", pcd("ascii", "x y w v"), "has no x, y and z"),
    ("a.npz", npz(points=BOX, occupancies=BOX[:, 0]), "points fill space.*pointcloud.npz"),
    ("a.npz", npz(a=BOX.T), r"a float64 \(3, 8\)"),
    ("a.npz", npz(points=np.column_stack([BOX, BOX * 300])), "neither normals"),
    ("a.obj.gz", OBJ, "not packed; its name should not end with .gz"),
    ("a.obj.gz", gzip.compress(OBJ.encode(), mtime=0)[:-20], "a.obj.gz: "),
    ("a.obj", ply(), "by its content it is a .ply"),
    ("a.ply", glb(), "by its content it is a .glb"),
    ("a.stl", off(), "by its content it is an .off"),
    ("a.obj", ascii_stl(), "by its content it is an .stl"),
    ("a.obj", gzip.compress(OBJ.encode(), mtime=0), "by its content it is a file packed by gzip"),
    ("a.xyz", npz(points=BOX), "by its content it is a zip file"),
    ("a.glb", "version https://git-lfs.github.com/spec/v1\n", "'git lfs pull' fetches"),
    ("a.obj", "<!doctype html><title>404</title>", "a web page: the download went wrong"),
    ("a.obj", b"Kaydara FBX Binary  \0", "an FBX, which is not read"),
]


@pytest.mark.parametrize(("name", "content", "words"), WRONG)
def test_what_is_wrong_is_said(tmp_path, name, content, words):
    content = content.encode() if isinstance(content, str) else content
    with pytest.raises(DdimxError, match=words) as caught:
        read(tmp_path, name, content).tree(3)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mesh_from_an_open_file():
    """As from a zip; beside it there are no files."""
    assert triangles(read_mesh(io.BytesIO(obj()), ".obj", "in a zip")) == BOX_TRIANGLES
    assert set(EXTENSIONS) >= {".gltf", ".obj.gz", ".pcd", ".txt"}
