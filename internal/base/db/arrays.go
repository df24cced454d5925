package db

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// encodeArrays has the connection write the arrays of parameters that slices use in one go. The driver takes each element through an interface, and that
// came to more than what it costs to look at the statement on the other side.
func encodeArrays(conn *pgx.Conn) {
	m := conn.TypeMap()
	for oid, element := range map[uint32]uint32{pgtype.ByteaArrayOID: pgtype.ByteaOID, pgtype.TextArrayOID: pgtype.TextOID, pgtype.Int8ArrayOID: pgtype.Int8OID, pgtype.Int2ArrayOID: pgtype.Int2OID} {
		if known, ok := m.TypeForOID(oid); ok {
			m.RegisterType(&pgtype.Type{Name: known.Name, OID: oid, Codec: arrayCodec{known.Codec, element}})
		}
	}
}

// arrayCodec is the driver's, but for what it makes of the slices whose elements are of the array's own type.
type arrayCodec struct {
	pgtype.Codec
	element uint32 // OID
}

// PlanEncode is that of pgtype.Codec.
func (c arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, element := elementsOf(value); element == c.element && format == pgtype.BinaryFormatCode {
		return arrayPlan{element}
	}
	return c.Codec.PlanEncode(m, oid, format, value)
}

// elementsOf returns the length of a slice that can be encoded here, and of which type its elements are; 0 of any other.
func elementsOf(value any) (n int, element uint32) {
	switch v := value.(type) {
	case [][]byte:
		return len(v), pgtype.ByteaOID
	case []string:
		return len(v), pgtype.TextOID
	case []int64:
		return len(v), pgtype.Int8OID
	case []int16:
		return len(v), pgtype.Int2OID
	}
	return 0, 0
}

type arrayPlan struct{ element uint32 }

// Encode appends the array in the form that PostgreSQL's array_recv reads: the number of dimensions, whether there are NULLs, the type of the elements, for
// the dimension its length and its first index, and the elements, each behind its length. A nil octet string is an empty one, see postgresArgs.
func (p arrayPlan) Encode(value any, b []byte) ([]byte, error) {
	n, _ := elementsOf(value)
	dimensions := uint32(min(n, 1))
	b = binary.BigEndian.AppendUint32(b, dimensions)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, p.element)
	if n == 0 {
		return b, nil
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, 1)
	switch v := value.(type) {
	case [][]byte:
		for _, e := range v {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(e))), e...)
		}
	case []string:
		for _, e := range v {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(e))), e...)
		}
	case []int64:
		for _, e := range v {
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(e))
		}
	case []int16:
		for _, e := range v {
			b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, 2), uint16(e))
		}
	}
	return b, nil
}
