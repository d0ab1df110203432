//! Tile generator for the fake Data Hub: invented hills, with each tile's z/x/y written on it.

use osdatahub_auth::{FakeAnswer, FakeDataHub, ReceivedRequest};

const SIZE: u16 = 256;

/// Colours of the sea, low land, high land, contour lines, the grid and the text. A test recognises tiles by the
/// colour of their text.
const PALETTE: [[u8; 3]; 6] = [
    [0xcf, 0xe3, 0xee],
    [0xf4, 0xf5, 0xe9],
    [0xe6, 0xee, 0xd5],
    [0xdf, 0xb9, 0x8c],
    [0x8f, 0xb3, 0xcf],
    [0x45, 0x3c, 0x90],
];
const SEA: u8 = 0;
const LOWLAND: u8 = 1;
const UPLAND: u8 = 2;
const CONTOUR: u8 = 3;
const GRID: u8 = 4;
const INK: u8 = 5;

/// Bitmap font of 5 by 7 pixels: the digits and a slash. Each row's bits run from left to right.
const GLYPHS: [[u8; 7]; 11] = [
    [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e],
    [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e],
    [0x0e, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1f],
    [0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e],
    [0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02],
    [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e],
    [0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e],
    [0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08],
    [0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e],
    [0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c],
    [0x00, 0x01, 0x02, 0x04, 0x08, 0x10, 0x00],
];

/// Serves tiles from the hub at OS's path, for OS's zoom levels 7 to 20.
pub fn serve(hub: &FakeDataHub) {
    hub.answer_under("/maps/raster/v1/zxy/", answer);
}

/// Response with the requested tile, or a 404 if there is none.
pub fn answer(request: &ReceivedRequest) -> FakeAnswer {
    let drawn = parse_path(request).and_then(|[z, x, y]| draw(z, x, y).ok());
    drawn.map_or_else(
        || FakeAnswer::new(404, ""),
        |png| FakeAnswer::new(200, png).with_header("Content-Type", "image/png"),
    )
}

/// Parses z, x and y from a path `…/{layer}/{z}/{x}/{y}.png`. `None` if no such tile exists.
fn parse_path(request: &ReceivedRequest) -> Option<[u32; 3]> {
    let mut parts = request.path.strip_suffix(".png")?.rsplit('/').map(str::parse);
    let (y, x, z) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let exists = (7..=20).contains(&z) && x >> z == 0 && y >> z == 0;
    exists.then_some([z, x, y])
}

fn draw(z: u32, x: u32, y: u32) -> Result<Vec<u8>, png::EncodingError> {
    let size = usize::from(SIZE);
    let mut pixels = landscape(z, x, y);
    for at in 0..size {
        pixels[at] = GRID;
        pixels[at * size] = GRID;
    }
    draw_text(&mut pixels, &format!("{z}/{x}/{y}"));

    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.into(), SIZE.into());
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(PALETTE.concat());
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

/// Pixels of the landscape, as indices into the palette.
///
/// A contour runs where the height step differs from the next pixel's. The row and column beyond the edge are
/// computed too, so that contours meet at the edges of tiles.
fn landscape(z: u32, x: u32, y: u32) -> Vec<u8> {
    let size = usize::from(SIZE);
    let mut steps = Vec::with_capacity((size + 1) * (size + 1));
    for row in 0..=SIZE {
        for column in 0..=SIZE {
            steps.push(height(z, [(x, column), (y, row)]));
        }
    }
    let mut pixels = Vec::with_capacity(size * size);
    for row in 0..size {
        for column in 0..size {
            let at = row * (size + 1) + column;
            let here = steps[at];
            let edge = steps[at + 1] != here || steps[at + size + 1] != here;
            pixels.push(match here {
                ..0 => SEA,
                _ if edge => CONTOUR,
                0..3 => LOWLAND,
                _ => UPLAND,
            });
        }
    }
    pixels
}

/// Height in contour steps: the sum of four waves, with lengths from 0.6 to 5.3 tiles.
///
/// The directions of the waves differ and turn with the zoom level.
fn height(z: u32, at: [(u32, u16); 2]) -> i32 {
    let [east, north] = at.map(|(tile, pixel)| f64::from(tile) + f64::from(pixel) / f64::from(SIZE));
    let wave = |length: f64, turn: f64| {
        let (sin, cos) = turn.sin_cos();
        ((east * cos + north * sin) / length * std::f64::consts::TAU).sin()
    };
    let turn = f64::from(z);
    let sum = 3.1 * wave(5.3, turn) + 2.3 * wave(3.1, turn + 1.9) + 1.2 * wave(1.7, turn + 4.1) + 0.5 * wave(0.6, turn);
    #[expect(clippy::cast_possible_truncation, reason = "a sum of a few waves is a small number")]
    let steps = (sum + 1.5).floor() as i32;
    steps
}

/// Writes text in the middle of the tile, as large as fits.
fn draw_text(pixels: &mut [u8], text: &str) {
    let size = usize::from(SIZE);
    let dot = if text.len() > 13 { 2 } else { 3 };
    let left = (size - text.len() * 6 * dot) / 2;
    let top = (size - 7 * dot) / 2;
    for (place, character) in text.bytes().enumerate() {
        let glyph = GLYPHS[usize::from(if character == b'/' { 10 } else { character - b'0' })];
        for (row, bits) in glyph.iter().enumerate() {
            for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                let at = (top + row * dot) * size + left + (place * 6 + column) * dot;
                for line in 0..dot {
                    pixels[at + line * size..][..dot].fill(INK);
                }
            }
        }
    }
}
