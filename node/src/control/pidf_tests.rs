//! Shapes, civic addresses, and documents that are none.

use super::*;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
    xmlns:dm=\"urn:ietf:params:xml:ns:pidf:data-model\" xmlns:gp=\"urn:ietf:params:xml:ns:pidf:geopriv10\" \
    xmlns:gml=\"http://www.opengis.net/gml\" xmlns:gs=\"http://www.opengis.net/pidflo/1.0\" \
    xmlns:ca=\"urn:ietf:params:xml:ns:pidf:geopriv10:civicAddr\" entity=\"pres:ann@example.com\"><dm:device id=\"d\"><gp:geopriv><gp:location-info>";
const TAIL: &str = "</gp:location-info><gp:usage-rules/><gp:method>GPS</gp:method></gp:geopriv>\
    <dm:timestamp>2026-11-24T12:00:00Z</dm:timestamp></dm:device></presence>";

fn of(inner: &str) -> Read {
    read(format!("{HEAD}{inner}{TAIL}").as_bytes())
}

fn shape_of(inner: &str) -> Shape {
    let read = of(inner);
    assert_eq!(read.error, "", "{inner}");
    read.locations[0].geodetic.clone().and_then(|g| g.shape).unwrap_or_else(|| panic!("no shape: {inner}"))
}

fn at(latitude: f64, longitude: f64) -> pb::Point {
    pb::Point { latitude, longitude, altitude: None }
}

#[test]
fn every_shape() {
    let pos = "<gml:pos> 52.5 \n 13.25 </gml:pos>";
    let radius = |name: &str, value: &str| format!("<gs:{name} uom=\"urn:ogc:def:uom:EPSG::9001\">{value}</gs:{name}>");
    assert_eq!(
        shape_of(&format!("<gml:Point srsName=\"urn:ogc:def:crs:EPSG::4326\">{pos}</gml:Point>")),
        Shape::Point(at(52.5, 13.25))
    );
    assert_eq!(
        shape_of("<gml:Point srsName=\"urn:ogc:def:crs:EPSG::4979\"><gml:pos>-1 2 30.5</gml:pos></gml:Point>"),
        Shape::Point(pb::Point { altitude: Some(30.5), ..at(-1.0, 2.0) })
    );
    assert_eq!(
        shape_of(&format!("<gs:Circle srsName=\"urn:ogc:def:crs:EPSG::4326\">{pos}{}</gs:Circle>", radius("radius", "850.24"))),
        Shape::Circle(pb::Circle { center: Some(at(52.5, 13.25)), radius_m: 850.24 })
    );
    let ellipse = format!(
        "<gs:Ellipse>{pos}{}{}<gs:orientation uom=\"urn:ogc:def:uom:EPSG::9102\">43.2</gs:orientation></gs:Ellipse>",
        radius("semiMajorAxis", "1275"),
        radius("semiMinorAxis", "670")
    );
    assert_eq!(
        shape_of(&ellipse),
        Shape::Ellipse(pb::Ellipse {
            center: Some(at(52.5, 13.25)),
            semi_major_m: 1275.0,
            semi_minor_m: 670.0,
            orientation_deg: 43.2
        })
    );
    let arc = format!(
        "<gs:ArcBand>{pos}{}{}<gs:startAngle>266</gs:startAngle><gs:openingAngle>120</gs:openingAngle></gs:ArcBand>",
        radius("innerRadius", "3594"),
        radius("outerRadius", "4148")
    );
    let Shape::ArcBand(band) = shape_of(&arc) else { panic!("no arc band") };
    assert_eq!(
        (band.inner_radius_m, band.outer_radius_m, band.start_angle_deg, band.opening_angle_deg),
        (3594.0, 4148.0, 266.0, 120.0)
    );
}

#[test]
fn polygons_by_positions_and_by_list() {
    let corners = [(1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (1.0, 1.0)];
    let expected = Shape::Polygon(pb::Polygon { points: corners.map(|(a, b)| at(a, b)).to_vec() });
    let ring =
        |inner: &str| format!("<gml:Polygon><gml:exterior><gml:LinearRing>{inner}</gml:LinearRing></gml:exterior></gml:Polygon>");
    let positions: String = corners.iter().map(|(a, b)| format!("<gml:pos>{a} {b}</gml:pos>")).collect();
    assert_eq!(shape_of(&ring(&positions)), expected);
    assert_eq!(shape_of(&ring("<gml:posList>1 1 1 2\n2 2 1 1</gml:posList>")), expected);
    for bad in ["<gml:posList>1 1 1</gml:posList>", "<gml:posList>1 1 2 2 1 1</gml:posList>", "", "<gml:pos>1 x</gml:pos>"] {
        assert!(!of(&ring(bad)).error.is_empty(), "{bad}");
    }
    let many = "1 1 ".repeat(MAX_POINTS + 1);
    assert!(!of(&ring(&format!("<gml:posList>{many}</gml:posList>"))).error.is_empty());
}

#[test]
fn civic_address_method_time_and_confidence() {
    let read = of(
        "<ca:civicAddress xml:lang=\"de\"><ca:country>DE</ca:country><ca:A3>Berlin</ca:A3><ca:RD>Unter den Linden &amp; \
        Wilhelmstraße</ca:RD></ca:civicAddress><con:confidence xmlns:con=\"urn:ietf:params:xml:ns:geopriv:conf\">95</con:confidence>",
    );
    assert_eq!(read.error, "");
    let location = &read.locations[0];
    let civic: Vec<(&str, &str)> = location.civic.iter().map(|e| (e.name.as_str(), e.value.as_str())).collect();
    assert_eq!(civic, [("country", "DE"), ("A3", "Berlin"), ("RD", "Unter den Linden & Wilhelmstraße")]);
    assert_eq!((location.method.as_str(), location.timestamp.as_str()), ("GPS", "2026-11-24T12:00:00Z"));
    assert_eq!((location.confidence, location.entity.as_str()), (Some(95.0), "pres:ann@example.com"));
    assert_eq!(location.geodetic, None);
}

#[test]
fn what_cannot_be_read_is_said() {
    let point = |pos: &str| format!("<gml:Point><gml:pos>{pos}</gml:pos></gml:Point>");
    for inner in [
        String::new(),
        "<gml:Point/>".into(),
        point(""),
        point("1"),
        point("1 2 3 4"),
        point("91 0"),
        point("0 181"),
        point("NaN 1"),
        point("inf 1"),
        "<gml:Point srsName=\"urn:ogc:def:crs:EPSG::31467\"><gml:pos>1 2</gml:pos></gml:Point>".into(),
        "<gs:Circle><gml:pos>1 2</gml:pos></gs:Circle>".into(),
        "<gs:Circle><gml:pos>1 2</gml:pos><gs:radius uom=\"foot\">3</gs:radius></gs:Circle>".into(),
        "<gs:Circle><gml:pos>1 2</gml:pos><gs:radius>-3</gs:radius></gs:Circle>".into(),
        "<gs:Unknown/>".into(),
    ] {
        let read = of(&inner);
        assert!(read.locations.is_empty() && !read.error.is_empty(), "{inner}: {read:?}");
    }
}

#[test]
fn hostile_documents_cost_little() {
    let entities = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><presence>&b;</presence>";
    let deep = format!("{}{}", "<a>".repeat(20_000), "</a>".repeat(20_000));
    let many = format!("<p>{}</p>", "<a/>".repeat(20_000));
    let long = "x".repeat(MAX_DOCUMENT + 1);
    for text in ["", "<", "<presence>", "plain", "<presence/>", entities, &deep, &many, &long] {
        let read = read(text.as_bytes());
        assert!(read.locations.is_empty() && !read.error.is_empty(), "{text:.60}");
    }
    assert!(!read(b"<p>\xff</p>").error.is_empty());
    // A nesting that the limit of nodes still lets through.
    let nested = format!("{}{}", "<a>".repeat(8_000), "</a>".repeat(8_000));
    assert!(!read(nested.as_bytes()).error.is_empty());
    // One bad location does not hide the good one.
    let two = of("<gml:Point><gml:pos>x</gml:pos></gml:Point></gp:location-info></gp:geopriv><gp:geopriv><gp:location-info>\
        <gml:Point><gml:pos>1 2</gml:pos></gml:Point>");
    assert_eq!(two.locations.len(), 1);
    assert!(!two.error.is_empty());
}
