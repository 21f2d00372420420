"""The skills that come with the product, against real file trees and servers."""
