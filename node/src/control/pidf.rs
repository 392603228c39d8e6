//! Location documents: PIDF-LO (RFC 4119, RFC 5491, civic addresses by RFC 5139, confidence by RFC 7459). What can be read is given; the
//! document itself always stands beside it, so nothing here may fail loudly.

use roxmltree::{Document, Node, ParsingOptions};
use sbc_proto::v1 as pb;
use sbc_proto::v1::geodetic::Shape;

/// Largest document that is read: a polygon of 256 points and a few civic addresses stay below.
const MAX_DOCUMENT: usize = 64 * 1024;
/// Nodes of one document: bounds time and memory.
const MAX_NODES: u32 = 8192;
/// location-info elements that are read.
const MAX_LOCATIONS: usize = 16;
/// Points of a polygon.
const MAX_POINTS: usize = 256;
/// Elements of a civic address: RFC 5139 and its extensions know about 50.
const MAX_CIVIC: usize = 64;

/// What a document says, and what of it could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Read {
    pub(crate) locations: Vec<pb::ParsedLocation>,
    pub(crate) error: String,
}

/// Reads a document.
pub(crate) fn read(octets: &[u8]) -> Read {
    let failed = |error: String| Read { locations: Vec::new(), error };
    if octets.len() > MAX_DOCUMENT {
        return failed(format!("{} octets; {MAX_DOCUMENT} are read", octets.len()));
    }
    let Ok(text) = std::str::from_utf8(octets) else { return failed("not UTF-8".to_owned()) };
    // No document type: entities would let a small document grow.
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = match Document::parse_with_options(text, options) {
        Ok(document) => document,
        Err(error) => return failed(format!("no XML: {error}")),
    };
    let mut out = Read::default();
    for info in document.descendants().filter(|n| is(n, "location-info")).take(MAX_LOCATIONS) {
        match location(&info) {
            Ok(location) => out.locations.push(location),
            Err(error) if out.error.is_empty() => out.error = error,
            Err(_) => {}
        }
    }
    if out.locations.is_empty() && out.error.is_empty() {
        out.error = "no location-info".to_owned();
    }
    out
}

fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

fn child<'a, 'i>(node: &Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| is(n, name))
}

fn text<'a>(node: &Node<'a, '_>) -> &'a str {
    node.text().unwrap_or_default().trim()
}

fn location(info: &Node<'_, '_>) -> Result<pb::ParsedLocation, String> {
    let mut out = pb::ParsedLocation::default();
    for element in info.children().filter(Node::is_element) {
        match element.tag_name().name() {
            "civicAddress" => {
                let elements = element.children().filter(Node::is_element).take(MAX_CIVIC);
                let named =
                    |n: Node<'_, '_>| pb::CivicElement { name: n.tag_name().name().to_owned(), value: text(&n).to_owned() };
                out.civic.extend(elements.map(named));
            }
            "confidence" => out.confidence = number(text(&element)).ok(),
            _ => {
                if let Some(shape) = shape(&element)? {
                    out.geodetic = Some(pb::Geodetic { shape: Some(shape) });
                }
            }
        }
    }
    if out.geodetic.is_none() && out.civic.is_empty() {
        return Err("a location-info without a shape or civic address that is known".to_owned());
    }
    // RFC 4119 §2.2: the method beside location-info, the timestamp in the tuple, device or person around it.
    let method = info.parent().and_then(|geopriv| child(&geopriv, "method"));
    out.method = method.map(|m| text(&m).to_owned()).unwrap_or_default();
    let timestamp = info.ancestors().find_map(|n| child(&n, "timestamp"));
    out.timestamp = timestamp.map(|t| text(&t).to_owned()).unwrap_or_default();
    out.entity = info.document().root_element().attribute("entity").unwrap_or_default().to_owned();
    Ok(out)
}

/// The shapes of RFC 5491 §5.2, the solid ones by their footprint; `None`: another element.
fn shape(element: &Node<'_, '_>) -> Result<Option<Shape>, String> {
    let shape = match element.tag_name().name() {
        "Point" => Shape::Point(position(element)?),
        "Circle" | "Sphere" => {
            Shape::Circle(pb::Circle { center: Some(position(element)?), radius_m: metres(element, "radius")? })
        }
        "Ellipse" | "Ellipsoid" => Shape::Ellipse(pb::Ellipse {
            center: Some(position(element)?),
            semi_major_m: metres(element, "semiMajorAxis")?,
            semi_minor_m: metres(element, "semiMinorAxis")?,
            orientation_deg: measure(element, "orientation")?,
        }),
        "ArcBand" => Shape::ArcBand(pb::ArcBand {
            center: Some(position(element)?),
            inner_radius_m: metres(element, "innerRadius")?,
            outer_radius_m: metres(element, "outerRadius")?,
            start_angle_deg: measure(element, "startAngle")?,
            opening_angle_deg: measure(element, "openingAngle")?,
        }),
        "Polygon" | "Prism" => Shape::Polygon(pb::Polygon { points: ring(element)? }),
        _ => return Ok(None),
    };
    srs(element)?;
    Ok(Some(shape))
}

/// RFC 5491 §5.2: WGS 84 in two or three dimensions, nothing else.
fn srs(element: &Node<'_, '_>) -> Result<(), String> {
    match element.attribute("srsName") {
        None => Ok(()),
        Some(name) if name.ends_with(":4326") || name.ends_with(":4979") => Ok(()),
        Some(name) => Err(format!("the reference system {name:.80} is not WGS 84")),
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(|| format!("\"{text:.40}\" is no number"))
}

fn measured<'a, 'i>(element: &Node<'a, 'i>, name: &str) -> Result<Node<'a, 'i>, String> {
    child(element, name).ok_or_else(|| format!("{} without {name}", element.tag_name().name()))
}

fn measure(element: &Node<'_, '_>, name: &str) -> Result<f64, String> {
    number(text(&measured(element, name)?))
}

/// A length; RFC 5491 §5.2: the unit is the metre.
fn metres(element: &Node<'_, '_>, name: &str) -> Result<f64, String> {
    let node = measured(element, name)?;
    if let Some(unit) = node.attribute("uom").filter(|u| !u.ends_with(":9001") && *u != "m" && !u.ends_with(":metre")) {
        return Err(format!("the unit {unit:.40} of {name} is not the metre"));
    }
    number(text(&node)).and_then(|n| if n >= 0.0 { Ok(n) } else { Err(format!("{name} below 0")) })
}

fn position(element: &Node<'_, '_>) -> Result<pb::Point, String> {
    let numbers = numbers(text(&measured(element, "pos")?))?;
    point(&numbers)
}

fn numbers(text: &str) -> Result<Vec<f64>, String> {
    text.split_ascii_whitespace().take(MAX_POINTS * 3 + 1).map(number).collect()
}

/// Latitude, longitude, altitude (EPSG:4326, EPSG:4979).
fn point(numbers: &[f64]) -> Result<pb::Point, String> {
    let (latitude, longitude, altitude) = match *numbers {
        [latitude, longitude] => (latitude, longitude, None),
        [latitude, longitude, altitude] => (latitude, longitude, Some(altitude)),
        _ => return Err(format!("a position of {} numbers", numbers.len())),
    };
    if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
        return Err(format!("no place on earth: {latitude} {longitude}"));
    }
    Ok(pb::Point { latitude, longitude, altitude })
}

/// The outer ring of a polygon, as `pos` elements or as one `posList`; of a prism that of its base.
fn ring(polygon: &Node<'_, '_>) -> Result<Vec<pb::Point>, String> {
    let ring = polygon.descendants().find(|n| is(n, "LinearRing")).ok_or("a polygon without ring")?;
    let points: Vec<pb::Point> = match child(&ring, "posList") {
        Some(list) => {
            let all = numbers(text(&list))?;
            let three = list.attribute("srsDimension") == Some("3")
                || polygon.attribute("srsName").is_some_and(|name| name.ends_with(":4979"));
            let size = if three { 3 } else { 2 };
            if !all.len().is_multiple_of(size) {
                return Err("a posList with an odd number".to_owned());
            }
            all.chunks(size).map(point).collect::<Result<_, _>>()?
        }
        None => {
            let positions = ring.children().filter(|n| is(n, "pos")).take(MAX_POINTS + 1);
            positions.map(|n| point(&numbers(text(&n))?)).collect::<Result<_, _>>()?
        }
    };
    // RFC 5491 §5.2.2: at least three corners, the first again as the last.
    match points.len() {
        0..=3 => Err(format!("a polygon of {} points", points.len())),
        4..=MAX_POINTS => Ok(points),
        _ => Err("a polygon of too many points".to_owned()),
    }
}

#[cfg(test)]
#[path = "pidf_tests.rs"]
mod tests;
