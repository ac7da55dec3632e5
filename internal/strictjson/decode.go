package strictjson

import (
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep values are nested for Unmarshal.
const maxDepth = 32

// Parse reads data, which is one value.
func Parse(data []byte) (*Node, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("json: not UTF-8")
	}
	n, end, err := Next(data, 0, maxDepth)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("json: ends in the middle of a value")
	case err != nil:
		return nil, fmt.Errorf("json: byte %d: %w", end, err)
	case end < len(data):
		return nil, fmt.Errorf("json: byte %d: something follows the value", end)
	}
	return n, nil
}

// Unmarshal fills the struct, string or whatever v points to, as [encoding/json.Unmarshal] does, from data, which is one value.
// It knows structs, slices, strings, bools, numbers, []byte, and types that are an [encoding.TextUnmarshaler]. Fields that the struct doesn't
// have are passed over, null changes nothing. Fields have the names of their tags, as they are written there, and are there once.
func Unmarshal(data []byte, v any) error {
	n, err := Parse(data)
	if err != nil {
		return err
	}
	if err := decode(n, reflect.ValueOf(v).Elem()); err != nil {
		return fmt.Errorf("json: %w", err)
	}
	return nil
}

func decode(n *Node, v reflect.Value) error {
	if n.Kind == Null {
		return nil
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok && n.Kind == String {
		return u.UnmarshalText([]byte(n.Text))
	}
	wrong := fmt.Errorf("byte %d: the value does not fit a %s", n.Offset, v.Kind())
	switch k := v.Kind(); {
	case k == reflect.Struct && n.Kind == Object:
		return decodeStruct(n, v)
	case k == reflect.String && n.Kind == String:
		v.SetString(n.Text)
	case k == reflect.Bool && n.Kind == Bool:
		v.SetBool(n.Text == "true")
	case k == reflect.Slice && n.Kind == String && v.Type().Elem().Kind() == reflect.Uint8:
		b, err := base64.StdEncoding.DecodeString(n.Text)
		if err != nil {
			return wrong
		}
		v.SetBytes(b)
	case k == reflect.Slice && n.Kind == List:
		v.Set(reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items)))
		for i, item := range n.Items {
			if err := decode(item, v.Index(i)); err != nil {
				return err
			}
		}
	case n.Kind == Number && v.CanInt():
		i, err := strconv.ParseInt(n.Text, 10, v.Type().Bits())
		if err != nil {
			return wrong
		}
		v.SetInt(i)
	case n.Kind == Number && v.CanUint():
		u, err := strconv.ParseUint(n.Text, 10, v.Type().Bits())
		if err != nil {
			return wrong
		}
		v.SetUint(u)
	case n.Kind == Number && v.CanFloat():
		f, err := strconv.ParseFloat(n.Text, 64)
		if err != nil {
			return wrong
		}
		v.SetFloat(f)
	default:
		return wrong
	}
	return nil
}

func decodeStruct(n *Node, v reflect.Value) error {
	seen := make(map[string]bool, len(n.Members))
	for _, m := range n.Members {
		if seen[m.Name] {
			return fmt.Errorf("byte %d: the field %.64q is there twice", m.Offset, m.Name)
		}
		seen[m.Name] = true
		if f, ok := field(v, m.Name); ok {
			if err := decode(m.Value, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// field returns the field of a struct, or of one that is embedded in it, that has the name in JSON.
func field(v reflect.Value, name string) (reflect.Value, bool) {
	t := v.Type()
	for i := range v.NumField() { // to range over the fields themselves would be 1 KB more of every program
		f, at := t.Field(i), v.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "" && at.Kind() == reflect.Struct:
			if in, ok := field(at, name); ok {
				return in, true
			}
		case tag == name && tag != "" && tag != "-":
			return at, true
		}
	}
	return reflect.Value{}, false
}
