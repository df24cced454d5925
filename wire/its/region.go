package its

import "mooring/wire/coer"

// Latitude and Longitude are tenths of a microdegree.
type (
	Latitude  int32
	Longitude int32
)

// Values of a station that does not know where it is.
const (
	UnknownLatitude  Latitude  = 900000001
	UnknownLongitude Longitude = 1800000001
)

// Code implements coer.Value.
func (l *Latitude) Code(c *coer.Coder) { coer.Int32(c, l, -900000000, UnknownLatitude) }

// Code implements coer.Value.
func (l *Longitude) Code(c *coer.Coder) { coer.Int32(c, l, -1799999999, UnknownLongitude) }

// TwoDLocation is a point on the earth.
type TwoDLocation struct {
	Latitude  Latitude
	Longitude Longitude
}

// Code implements coer.Value.
func (l *TwoDLocation) Code(c *coer.Coder) {
	s := c.Sequence()
	l.Latitude.Code(c.At("latitude"))
	l.Longitude.Code(c.At("longitude"))
	s.End()
}

// ThreeDLocation is a point with its height: Elevation counts decimetres from 409.6 m below the ellipsoid.
type ThreeDLocation struct {
	Latitude  Latitude
	Longitude Longitude
	Elevation uint16
}

// Code implements coer.Value.
func (l *ThreeDLocation) Code(c *coer.Coder) {
	s := c.Sequence()
	l.Latitude.Code(c.At("latitude"))
	l.Longitude.Code(c.At("longitude"))
	coer.Uint16(c.At("elevation"), &l.Elevation)
	s.End()
}

// RegionChoice is an alternative of GeographicRegion.
type RegionChoice uint8

// The alternatives.
const (
	RegionCircular RegionChoice = iota
	RegionRectangular
	RegionPolygonal
	RegionIdentified
)

var regionChoices = coer.Choices{Names: []string{"circularRegion", "rectangularRegion", "polygonalRegion", "identifiedRegion"}}

// GeographicRegion is where a certificate may be used. An alternative that is not known makes the certificate invalid.
type GeographicRegion struct {
	Choice      RegionChoice
	Circular    CircularRegion
	Rectangular []RectangularRegion
	Polygonal   []TwoDLocation // three corners or more
	Identified  []IdentifiedRegion
}

// Code implements coer.Value.
func (r *GeographicRegion) Code(c *coer.Coder) {
	switch coer.Choice(c, &r.Choice, &regionChoices) {
	case RegionCircular:
		r.Circular.Code(c)
	case RegionRectangular:
		for e := range coer.All(c, &r.Rectangular) {
			e.Code(c)
		}
	case RegionPolygonal:
		for e := range coer.All(c, &r.Polygonal) {
			e.Code(c)
		}
		c.Refuse(len(r.Polygonal) < 3, "a polygon has at least three corners")
	case RegionIdentified:
		for e := range coer.All(c, &r.Identified) {
			e.Code(c)
		}
	}
	c.EndChoice()
}

// CircularRegion is what lies within Radius metres.
type CircularRegion struct {
	Center TwoDLocation
	Radius uint16
}

// Code implements coer.Value.
func (r *CircularRegion) Code(c *coer.Coder) {
	s := c.Sequence()
	r.Center.Code(c.At("center"))
	coer.Uint16(c.At("radius"), &r.Radius)
	s.End()
}

// RectangularRegion lies between two corners. One whose corners are the wrong way round, or have a side of no length, makes a certificate invalid; that is for
// who validates it.
type RectangularRegion struct {
	NorthWest TwoDLocation
	SouthEast TwoDLocation
}

// Code implements coer.Value.
func (r *RectangularRegion) Code(c *coer.Coder) {
	s := c.Sequence()
	r.NorthWest.Code(c.At("northWest"))
	r.SouthEast.Code(c.At("southEast"))
	s.End()
}

// IdentifiedChoice is an alternative of IdentifiedRegion.
type IdentifiedChoice uint8

// The alternatives.
const (
	CountryOnly IdentifiedChoice = iota
	CountryAndRegions
	CountryAndSubregions
)

var identifiedChoices = coer.Choices{Names: []string{"countryOnly", "countryAndRegions", "countryAndSubregions"}, Extensible: true}

// IdentifiedRegion is a country, by its number at the United Nations, or parts of it. 65535 is the European Union (TS 103 097, clause 6).
type IdentifiedRegion struct {
	Choice     IdentifiedChoice
	Country    uint16
	Regions    []uint8
	Subregions []RegionAndSubregions
	Other      []byte
}

// Code implements coer.Value.
func (r *IdentifiedRegion) Code(c *coer.Coder) {
	switch coer.Choice(c, &r.Choice, &identifiedChoices) {
	case CountryOnly:
		coer.Uint16(c, &r.Country)
	case CountryAndRegions:
		s := c.Sequence()
		coer.Uint16(c.At("countryOnly"), &r.Country)
		for e := range coer.All(c.At("regions"), &r.Regions) {
			coer.Uint8(c, e)
		}
		s.End()
	case CountryAndSubregions:
		s := c.Sequence()
		coer.Uint16(c.At("countryOnly"), &r.Country)
		for e := range coer.All(c.At("regionAndSubregions"), &r.Subregions) {
			e.Code(c)
		}
		s.End()
	default:
		c.Other(&r.Other)
	}
	c.EndChoice()
}

// RegionAndSubregions are parts of a part of a country.
type RegionAndSubregions struct {
	Region     uint8
	Subregions []uint16
}

// Code implements coer.Value.
func (r *RegionAndSubregions) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Uint8(c.At("region"), &r.Region)
	for e := range coer.All(c.At("subregions"), &r.Subregions) {
		coer.Uint16(c, e)
	}
	s.End()
}
