package der

import "errors"

// NoExpiry is 99991231235959Z in Unix seconds: the end of validity of certificates that have no well-defined one
// (RFC 5280, section 4.1.2.5). Never subtract from it as time.Duration: 292 years are the most that one holds.
const NoExpiry int64 = 253402300799

const (
	firstUTCTime = -631152000 // 1950-01-01T00:00:00Z
	firstGenTime = 2524608000 // 2050-01-01T00:00:00Z
	day          = 86400
)

// AppendTime appends a Time in Unix seconds: UTCTime through 2049, GeneralizedTime from 2050, both with seconds and Z
// (RFC 5280, section 4.1.2.5). Times before 1950 and after 9999 are refused.
func AppendTime(dst []byte, unix int64) ([]byte, error) {
	if unix < firstUTCTime || unix > NoExpiry {
		return nil, errors.New("time outside the years 1950 to 9999")
	}
	if unix >= firstGenTime {
		return appendGeneralized(dst, unix), nil
	}
	dst = append(dst, tagUTCTime, 13)
	return appendClock(dst, unix, false), nil
}

// AppendGeneralizedTime appends a GeneralizedTime of whole seconds, whatever the year (1950 to 9999).
func AppendGeneralizedTime(dst []byte, unix int64) ([]byte, error) {
	if unix < firstUTCTime || unix > NoExpiry {
		return nil, errors.New("time outside the years 1950 to 9999")
	}
	return appendGeneralized(dst, unix), nil
}

func appendGeneralized(dst []byte, unix int64) []byte {
	return appendClock(append(dst, tagGenTime, 15), unix, true)
}

// timeSize is the number of octets that AppendTime writes.
func timeSize(unix int64) int {
	if unix >= firstGenTime {
		return 17
	}
	return 15
}

// appendClock writes the digits, with or without the century. Splitting days into years, months and days counts from
// 1 March of year 0 in eras of 400 years: the leap day then ends the year and all eras are alike.
func appendClock(dst []byte, unix int64, century bool) []byte {
	days, second := unix/day, unix%day
	if second < 0 {
		days, second = days-1, second+day
	}
	days += 719468 // days from 0000-03-01 to 1970-01-01
	era, inEra := days/146097, days%146097
	yearOfEra := (inEra - inEra/1460 + inEra/36524 - inEra/146096) / 365
	inYear := inEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	shifted := (5*inYear + 2) / 153 // month, counted from March
	dayOfMonth := inYear - (153*shifted+2)/5 + 1
	year, month := era*400+yearOfEra, shifted+3
	if month > 12 {
		year, month = year+1, month-12
	}
	if century {
		dst = appendTwo(dst, year/100)
	}
	dst = appendTwo(dst, year%100)
	dst = appendTwo(dst, month)
	dst = appendTwo(dst, dayOfMonth)
	dst = appendTwo(dst, second/3600)
	dst = appendTwo(dst, second/60%60)
	dst = appendTwo(dst, second%60)
	return append(dst, 'Z')
}

func appendTwo(dst []byte, n int64) []byte { return append(dst, byte('0'+n/10), byte('0'+n%10)) }
