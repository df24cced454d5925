package chain

import (
	"math"
	"reflect"
	"slices"

	"mooring/wire/its"
)

// europeanUnion is what the country 65535 stands for (TS 103 097, clause 6): the members of 2020, by the numbers of the United Nations.
const europeanUnion = 65535

var members = []uint16{40, 56, 100, 191, 196, 203, 208, 233, 246, 250, 276, 300, 348, 372, 380, 428, 440, 442, 470, 528, 616, 620, 642, 703, 705, 724, 752}

// checkRegion says whether the region of path[i] lies in that of who issued it; where one has none, the one above counts, and at the top there is no limit.
func checkRegion(path []*its.Certificate, i int) error {
	own, ok := path[i].ToBeSigned.Region.Get()
	if !ok {
		return nil
	}
	for _, above := range path[i+1:] {
		if r, ok := above.ToBeSigned.Region.Get(); ok {
			if !inside(&own, &r) {
				return ErrRegion
			}
			return nil
		}
	}
	return nil
}

// checkPlace says whether a message was made where its signer may; where it has no region, the one above counts (IEEE 1609.2, 5.2.3.3 and 5.2.4.2).
func checkPlace(h *its.HeaderInfo, path []*its.Certificate, o Options) error {
	place, ok := h.GenerationLocation.Get()
	if !ok {
		return nil
	}
	for _, x := range path {
		if r, ok := x.ToBeSigned.Region.Get(); ok {
			if !lies(its.TwoDLocation{Latitude: place.Latitude, Longitude: place.Longitude}, &r, o) {
				return ErrPlace
			}
			return nil
		}
	}
	return nil
}

// lies says whether a place lies in a region for sure. A border is part of what it surrounds.
func lies(p its.TwoDLocation, r *its.GeographicRegion, o Options) bool {
	if !known(p) {
		return false
	}
	switch r.Choice {
	case its.RegionCircular:
		return distance(p, r.Circular.Center) <= float64(r.Circular.Radius)
	case its.RegionRectangular:
		return slices.ContainsFunc(r.Rectangular, func(b its.RectangularRegion) bool {
			return rectangleInside(its.RectangularRegion{NorthWest: p, SouthEast: p}, b)
		})
	case its.RegionPolygonal:
		return surrounded(p, r.Polygonal)
	}
	return o.Within != nil && slices.ContainsFunc(spelled(r.Identified), func(i its.IdentifiedRegion) bool { return i.Choice <= its.CountryAndSubregions && o.Within(p, i) })
}

// surrounded says whether a place lies in a polygon: whoever goes west from there crosses its sides an odd number of times. The last corner is joined with the
// first. Products of differences of coordinates fit into 63 bits, but not the differences of such products.
func surrounded(p its.TwoDLocation, corners []its.TwoDLocation) bool {
	in := false
	for i, a := range corners {
		b := corners[(i+1)%len(corners)]
		if a.Latitude > b.Latitude {
			a, b = b, a
		}
		lat, lon := int64(b.Latitude)-int64(a.Latitude), int64(b.Longitude)-int64(a.Longitude)
		east, at := (int64(p.Longitude)-int64(a.Longitude))*lat, (int64(p.Latitude)-int64(a.Latitude))*lon
		if east == at && between(p.Latitude, a.Latitude, b.Latitude) && between(p.Longitude, a.Longitude, b.Longitude) {
			return true
		}
		if a.Latitude <= p.Latitude && p.Latitude < b.Latitude && east > at {
			in = !in
		}
	}
	return in
}

func between[T its.Latitude | its.Longitude](x, a, b T) bool { return min(a, b) <= x && x <= max(a, b) }

// known says whether a place is one.
func known(l its.TwoDLocation) bool {
	return l.Latitude != its.UnknownLatitude && l.Longitude != its.UnknownLongitude
}

// sound says whether a region is one: rectangles have sides, and nothing lies where nobody knows.
func sound(r *its.GeographicRegion) bool {
	switch r.Choice {
	case its.RegionCircular:
		return known(r.Circular.Center)
	case its.RegionRectangular:
		return len(r.Rectangular) > 0 && !slices.ContainsFunc(r.Rectangular, func(b its.RectangularRegion) bool {
			return !known(b.NorthWest) || !known(b.SouthEast) || b.NorthWest.Latitude <= b.SouthEast.Latitude || b.NorthWest.Longitude >= b.SouthEast.Longitude
		})
	case its.RegionPolygonal:
		return !slices.ContainsFunc(r.Polygonal, func(l its.TwoDLocation) bool { return !known(l) })
	}
	return len(r.Identified) > 0
}

// inside says whether a region lies in another one for sure.
func inside(a, b *its.GeographicRegion) bool {
	if a.Choice != b.Choice {
		return false
	}
	switch a.Choice {
	case its.RegionCircular:
		return distance(a.Circular.Center, b.Circular.Center)+float64(a.Circular.Radius) <= float64(b.Circular.Radius)
	case its.RegionRectangular:
		return each(a.Rectangular, b.Rectangular, rectangleInside)
	case its.RegionPolygonal:
		return reflect.DeepEqual(a.Polygonal, b.Polygonal)
	}
	return each(spelled(a.Identified), spelled(b.Identified), identifiedInside)
}

// each says whether each of the inner lies in one of the outer.
func each[T any](inner, outer []T, in func(a, b T) bool) bool {
	for _, a := range inner {
		if !slices.ContainsFunc(outer, func(b T) bool { return in(a, b) }) {
			return false
		}
	}
	return true
}

func rectangleInside(a, b its.RectangularRegion) bool {
	return a.NorthWest.Latitude <= b.NorthWest.Latitude && a.NorthWest.Longitude >= b.NorthWest.Longitude &&
		a.SouthEast.Latitude >= b.SouthEast.Latitude && a.SouthEast.Longitude <= b.SouthEast.Longitude
}

// spelled has the members of the European Union in its place.
func spelled(all []its.IdentifiedRegion) (list []its.IdentifiedRegion) {
	for _, r := range all {
		if r.Choice != its.CountryOnly || r.Country != europeanUnion {
			list = append(list, r)
			continue
		}
		for _, m := range members {
			list = append(list, its.IdentifiedRegion{Country: m})
		}
	}
	return list
}

// identifiedInside says whether a country or a part of it lies in another.
func identifiedInside(a, b its.IdentifiedRegion) bool {
	if a.Choice > its.CountryAndSubregions || a.Country != b.Country {
		return false
	}
	switch b.Choice {
	case its.CountryOnly:
		return true
	case its.CountryAndRegions:
		return a.Choice != its.CountryOnly && each(regionsOf(a), b.Regions, func(x, y uint8) bool { return x == y })
	case its.CountryAndSubregions:
		return a.Choice == its.CountryAndSubregions && each(a.Subregions, b.Subregions, func(x, y its.RegionAndSubregions) bool {
			return x.Region == y.Region && each(x.Subregions, y.Subregions, func(p, q uint16) bool { return p == q })
		})
	}
	return false
}

func regionsOf(r its.IdentifiedRegion) []uint8 {
	if r.Choice == its.CountryAndRegions {
		return r.Regions
	}
	var all []uint8
	for _, s := range r.Subregions {
		all = append(all, s.Region)
	}
	return all
}

// distance is how many metres two points are apart on a sphere, the greatest that the earth fits in.
func distance(a, b its.TwoDLocation) float64 {
	const radius, unit = 6378137, math.Pi / 180 / 1e7
	lat1, lat2 := float64(a.Latitude)*unit, float64(b.Latitude)*unit
	s1, s2 := math.Sin((lat2-lat1)/2), math.Sin((float64(b.Longitude)-float64(a.Longitude))*unit/2)
	return 2 * radius * math.Asin(math.Min(1, math.Sqrt(s1*s1+math.Cos(lat1)*math.Cos(lat2)*s2*s2)))
}
